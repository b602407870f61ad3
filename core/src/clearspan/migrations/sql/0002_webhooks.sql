-- Outgoing webhooks: endpoints, one delivery per endpoint and event, every attempt. The shapes of 0001 hold.

CREATE TABLE webhook_endpoints (
    tenant_id           uuid        NOT NULL REFERENCES tenants,
    live                boolean     NOT NULL,
    webhook_endpoint_id uuid        NOT NULL,
    url                 text        NOT NULL CHECK (length(url) <= 2048),
    description         text,
    events              text[]      NOT NULL CHECK (cardinality(events) >= 1), -- payment.captured, payment.* or *
    api_version         text        NOT NULL CHECK (api_version IN ('v1')),
    status              text        NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled', 'deleted')),
    disabled_reason     text        CHECK (disabled_reason IN ('manual', 'gone', 'failing')),
    disabled_at         timestamptz,
    secret              bytea       NOT NULL, -- sealed under the tenant's data key
    previous_secret     bytea,      -- signs beside it ...
    previous_until      timestamptz, -- ... until then
    failing_since       timestamptz, -- the first failure since the last success
    -- Up to here the journal was looked at for this endpoint. A new one begins where readers stand: what was committed before is
    -- below, what was still under way is above.
    cursor_epoch        integer     NOT NULL DEFAULT journal_epoch(),
    cursor_xid          xid8        NOT NULL DEFAULT pg_snapshot_xmin(pg_current_snapshot()),
    cursor_seq          bigint      NOT NULL DEFAULT 0,
    sequence            integer     NOT NULL DEFAULT 1,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, webhook_endpoint_id),
    CHECK ((status = 'disabled') = (disabled_reason IS NOT NULL AND disabled_at IS NOT NULL))
) WITH (fillfactor = 70); -- its cursor moves
CREATE TRIGGER keep BEFORE DELETE ON webhook_endpoints FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- An event on its way to an endpoint: exactly one row, however often it is tried or replayed.
CREATE TABLE webhook_deliveries (
    tenant_id           uuid        NOT NULL REFERENCES tenants,
    live                boolean     NOT NULL,
    delivery_id         uuid        NOT NULL, -- a pure function of endpoint and event
    webhook_endpoint_id uuid        NOT NULL,
    event_id            uuid        NOT NULL,
    event_type          text        NOT NULL,
    subject_id          uuid        NOT NULL, -- of one subject, an earlier event goes first
    epoch               integer     NOT NULL, -- where the event stands in the journal
    xid                 xid8        NOT NULL,
    seq                 bigint      NOT NULL,
    state               text        NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed', 'canceled')),
    due_at              timestamptz, -- when it is looked at next: a try, or the end of the lease of whoever is trying
    lease_token         uuid,        -- of whoever is trying
    tries               integer     NOT NULL DEFAULT 0, -- since it was made or replayed
    attempts            integer     NOT NULL DEFAULT 0, -- ever
    replays             integer     NOT NULL DEFAULT 0,
    last_status         smallint,
    last_error          text,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    delivered_at        timestamptz,
    PRIMARY KEY (tenant_id, live, delivery_id),
    UNIQUE (tenant_id, live, webhook_endpoint_id, event_id),
    FOREIGN KEY (tenant_id, live, webhook_endpoint_id) REFERENCES webhook_endpoints,
    CHECK ((state = 'pending') = (due_at IS NOT NULL)),
    CHECK (state = 'pending' OR lease_token IS NULL)
) WITH (fillfactor = 80);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, live, webhook_endpoint_id, due_at, epoch, xid, seq)
    WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_queue ON webhook_deliveries (tenant_id, live, webhook_endpoint_id, subject_id, epoch, xid, seq)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_of_endpoint ON webhook_deliveries (tenant_id, live, webhook_endpoint_id, delivery_id);
CREATE INDEX webhook_deliveries_of_event ON webhook_deliveries (tenant_id, live, event_id);
CREATE INDEX webhook_deliveries_by_state ON webhook_deliveries (tenant_id, live, state, delivery_id);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);

CREATE TABLE webhook_attempts (
    tenant_id   uuid        NOT NULL,
    live        boolean     NOT NULL,
    delivery_id uuid        NOT NULL,
    number      integer     NOT NULL,
    at          timestamptz NOT NULL,
    duration_ms integer     NOT NULL,
    status      smallint,   -- of the consumer's answer; null when there was none
    error       text,       -- why there was none
    answer      text        NOT NULL, -- its first kilobyte, card numbers masked
    PRIMARY KEY (tenant_id, live, delivery_id, number),
    FOREIGN KEY (tenant_id, live, delivery_id) REFERENCES webhook_deliveries ON DELETE CASCADE
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['webhook_endpoints', 'webhook_deliveries', 'webhook_attempts']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['webhook_endpoints', 'webhook_deliveries']
    LOOP
        EXECUTE format('CREATE POLICY of_system ON %I FOR SELECT TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON webhook_endpoints TO {{app_role}};
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries, webhook_attempts TO {{app_role}};
