-- Version 3: shards that are kept in another journal.
ALTER TABLE shard ADD COLUMN moved_to text;
COMMENT ON COLUMN shard.moved_to IS 'the journal that has these transactions instead of this one';
