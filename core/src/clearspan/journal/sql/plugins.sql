-- The log of plugins, for the whole installation. SECURITY DEFINER, since the application has no right on its table; nothing in it
-- is a tenant's.

-- Compares {now, process, plugins: [{name, distribution, version, problem}], why: nothing else is loaded} with what was known, and adds a row per change:
-- enabled, disabled, updated (another distribution or version), failed (left out, for a reason that was not known). Answers what
-- was added. Processes that start at once take turns, so each change is told once.
CREATE OR REPLACE FUNCTION plugins_seen_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    added jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636c6561'::int, 2);
    PERFORM set_config('app.system', 'on', true);
    WITH known AS (
        SELECT DISTINCT ON (name) * FROM plugin_log ORDER BY name, seq DESC
    ), now AS (
        SELECT * FROM jsonb_to_recordset(p->'plugins') AS (name text, distribution text, version text, problem text)
    ), changed AS (
        SELECT name, COALESCE(n.distribution, k.distribution) AS distribution, COALESCE(n.version, k.version) AS version,
            COALESCE(n.problem, p->>'why', '') AS problem,
            CASE WHEN n.distribution IS NULL THEN 'plugin.disabled'
                 WHEN n.problem <> '' THEN 'plugin.failed'
                 WHEN k.type IS NULL OR k.type IN ('plugin.disabled', 'plugin.failed') THEN 'plugin.enabled'
                 ELSE 'plugin.updated' END AS type
        FROM now n FULL JOIN known k USING (name)
        WHERE CASE WHEN n.distribution IS NULL THEN k.type <> 'plugin.disabled'
                   ELSE k.type IS NULL OR k.type = 'plugin.disabled'
                        OR (n.distribution, n.version, n.problem) IS DISTINCT FROM (k.distribution, k.version, k.problem) END
    ), written AS (
        INSERT INTO plugin_log (at, type, name, distribution, version, problem, process)
        SELECT (p->>'now')::timestamptz, type, name, distribution, version, problem, p->>'process' FROM changed ORDER BY name
        RETURNING *
    )
    SELECT COALESCE(jsonb_agg(to_jsonb(w) ORDER BY w.seq), '[]') INTO added FROM written w;
    PERFORM set_config('app.system', '', true);
    RETURN added;
END $$;

-- The newest {most} rows about {name}, newest first.
CREATE OR REPLACE FUNCTION plugins_history_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_agg(to_jsonb(l) ORDER BY l.seq DESC), '[]') INTO found FROM (
        SELECT * FROM plugin_log WHERE name = p->>'name' ORDER BY seq DESC LIMIT (p->>'most')::integer) l;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;
