-- Version 1 of the tables, in the schema that the search path names.
CREATE TABLE journal_meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    instance text NOT NULL,
    schema_version int NOT NULL,
    openings bigint NOT NULL
);
CREATE TABLE shard (
    shard int PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    owner text,
    claimed_at timestamptz,
    proved_at timestamptz
) WITH (fillfactor = 25);
INSERT INTO shard (shard) SELECT generate_series(0, 63);
CREATE TABLE distributed_txn (
    txn_id uuid PRIMARY KEY,
    kind text,
    status text,
    outcome text,
    shard int NOT NULL,
    initiated_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ended_at timestamptz,
    timeout_ms bigint,
    coordinator text NOT NULL,
    idempotency_key text,
    fingerprint bytea,
    records int NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX distributed_txn_open ON distributed_txn (txn_id) WHERE ended_at IS NULL;
CREATE INDEX distributed_txn_ended ON distributed_txn (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX distributed_txn_key ON distributed_txn (idempotency_key, txn_id)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX distributed_txn_status ON distributed_txn (status, txn_id)
    WHERE ended_at IS NOT NULL AND status <> 'COMMITTED';
CREATE INDEX distributed_txn_kind ON distributed_txn (kind, txn_id) WHERE kind <> 'atomic';
CREATE TABLE txn_participant (
    txn_id uuid NOT NULL,
    branch int NOT NULL,
    participant text NOT NULL,
    resource text,
    compensation_resource text,
    vote text,
    standing text,
    ack boolean NOT NULL,
    PRIMARY KEY (txn_id, branch)
) WITH (fillfactor = 80);
CREATE INDEX txn_participant_resource ON txn_participant (resource, txn_id);
CREATE INDEX txn_participant_compensation ON txn_participant (compensation_resource, txn_id)
    WHERE compensation_resource IS NOT NULL;
CREATE TABLE txn_log (
    txn_id uuid NOT NULL,
    seq int NOT NULL,
    lsn bigint NOT NULL,
    at timestamptz NOT NULL,
    event text NOT NULL,
    detail text NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (txn_id, seq)
);
COMMENT ON TABLE distributed_txn IS 'one row a transaction, made from txn_log';
COMMENT ON TABLE txn_participant IS 'one row a participant or step, made from txn_log';
COMMENT ON TABLE txn_log IS 'one row a record; the column record alone is the truth';
COMMENT ON TABLE shard IS 'who owns which transactions: never change an epoch by hand';
