-- The audit trail's proof: one RFC 6962 tree over the journal of the whole installation, and signed checkpoints of it.
--
-- One tree and not one per tenant, because a checkpoint protects whatever is in it, and one checkpoint a minute can be pushed,
-- printed and witnessed. So the keys of these tables cannot start with tenant_id: they are the named exception to the rule of 0001
-- (INSTALLATION_WIDE in tests/system/test_isolation.py). In return the application holds no right on them, except to read a
-- tenant's own leaves under its policy; it writes through the functions in journal/sql/seal.sql. Nothing here refers to the
-- journal by a foreign key: the proof must be able to say that a row is gone.

-- leaf_index counts the journal's rows in the order (epoch, xid, seq), from 0.
CREATE TABLE journal_leaves (
    leaf_index bigint  PRIMARY KEY CHECK (leaf_index >= 0),
    tenant_id  uuid    NOT NULL,
    live       boolean NOT NULL,
    event_id   uuid    NOT NULL,
    epoch      integer NOT NULL,
    xid        xid8    NOT NULL,
    seq        bigint  NOT NULL,
    hash       bytea   NOT NULL CHECK (length(hash) = 32), -- sha256(0x00 || the row in its canonical form)
    UNIQUE (tenant_id, live, event_id)
);

-- Full subtrees of 2^level leaves, every fourth level: the hash of 16 on the kept level below.
CREATE TABLE journal_nodes (
    level smallint NOT NULL CHECK (level > 0 AND level % 4 = 0),
    index bigint   NOT NULL CHECK (index >= 0),
    hash  bytea    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, index)
);

-- What was signed. The mac, under a key that is not in the database, covers number, time and note: so none can be taken out of the
-- row of numbers, and none renumbered.
CREATE TABLE checkpoints (
    number     bigint      PRIMARY KEY CHECK (number > 0),
    size       bigint      NOT NULL UNIQUE CHECK (size > 0),
    root       bytea       NOT NULL CHECK (length(root) = 32),
    note       text        NOT NULL, -- C2SP tlog-checkpoint
    created_at timestamptz NOT NULL,
    mac        bytea       NOT NULL
);

-- How far each place off the host has got. Not a part of the trail: it changes.
CREATE TABLE checkpoint_pushes (
    target      text        PRIMARY KEY,
    pushed      bigint      NOT NULL DEFAULT 0, -- number of the last checkpoint that arrived
    failures    integer     NOT NULL DEFAULT 0, -- tries since then
    due_at      timestamptz NOT NULL,           -- the next try; while one is under way, when it has to be over
    updated_at  timestamptz NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal_leaves FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON journal_leaves FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal_nodes FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON journal_nodes FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON checkpoints FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['journal_leaves', 'journal_nodes', 'checkpoints', 'checkpoint_pushes']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_system ON %I TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
CREATE POLICY of_tenant ON journal_leaves FOR SELECT TO {{app_role}} USING (tenant_id = app_tenant() AND live = app_live());
GRANT SELECT ON journal_leaves TO {{app_role}};
