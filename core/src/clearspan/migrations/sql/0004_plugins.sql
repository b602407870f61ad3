-- Which plugins ran, and since when: installation-wide, since a plugin runs for all tenants. Append-only; what holds now is the
-- last row of each name. Written and read through journal/sql/plugins.sql only, so the application has no right on it.

CREATE TABLE plugin_log (
    seq          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL,
    type         text        NOT NULL CHECK (type IN ('plugin.enabled', 'plugin.disabled', 'plugin.updated', 'plugin.failed')),
    name         text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200), -- of the entry point
    distribution text        NOT NULL,
    version      text        NOT NULL,
    problem      text        NOT NULL DEFAULT '', -- why it was left out
    process      text        NOT NULL             -- which kind of process found the change
);
CREATE INDEX plugin_log_by_name ON plugin_log (name, seq);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON plugin_log FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON plugin_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER TABLE plugin_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE plugin_log FORCE ROW LEVEL SECURITY;
CREATE POLICY of_system ON plugin_log TO CURRENT_USER USING (app_system());
