-- Version 2: the nodes that take part.
CREATE TABLE node (
    name text PRIMARY KEY,
    address text NOT NULL,
    incarnation bigint NOT NULL,
    state text NOT NULL,
    announced_at timestamptz NOT NULL
);
COMMENT ON TABLE node IS 'where the nodes are found; a node that is gone may still stand here';
