-- Reading the journal in the order of (epoch, xid, seq).
--
-- The rule: a row may be read by a follower only when its transaction is older than every transaction that still runs,
--     epoch < journal_epoch() OR xid < pg_snapshot_xmin(pg_current_snapshot()),
-- because sequence numbers do not commit in order: whoever follows them alone steps over a row that commits late. As epochs
-- only grow and seq begins at 1, the rule is the range (epoch, xid, seq) < (journal_epoch(), xmin, 0), which an index serves;
-- the right-hand side is called the horizon. Nothing can still appear below it.
--
-- Every function answers {entries, upto, more}: the rows, oldest first; the position up to which everything was looked at,
-- from which the next call goes on; and whether there was more to look at than fitted.

CREATE OR REPLACE FUNCTION journal_position_{{v}}(epoch integer, xid xid8, seq bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('epoch', epoch, 'xid', xid::text::bigint, 'seq', seq);
$$;

-- What was committed since p->'after', across tenants: {after, most, scopes}. Without after it only says where the horizon is;
-- scopes lists the tenants and modes whose rows are wanted, without it all are. The owner sees every tenant; the process that
-- asks sorts the rows by tenant before anybody gets one.
CREATE OR REPLACE FUNCTION journal_tail_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    WITH looked AS (
        SELECT * FROM journal j
        WHERE (j.epoch, j.xid, j.seq)
                > ((p->'after'->>'epoch')::integer, (p->'after'->>'xid')::xid8, (p->'after'->>'seq')::bigint)
          AND (j.epoch, j.xid, j.seq) < (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0)
          AND j.seq > 0 -- always so; it opens the index journal_tail, which only a look across tenants may use
        ORDER BY j.epoch, j.xid, j.seq
        LIMIT (p->>'most')::integer),
    wanted AS (
        SELECT * FROM looked
        WHERE p->'scopes' IS NULL OR (tenant_id, live) IN (
            SELECT s.tenant_id, s.live FROM jsonb_to_recordset(p->'scopes') AS s (tenant_id uuid, live boolean))),
    size AS (SELECT count(*) = (p->>'most')::integer AS full FROM looked)
    SELECT jsonb_build_object(
        'entries', (SELECT COALESCE(jsonb_agg(to_jsonb(w) || jsonb_build_object('xid', w.xid::text::bigint)
                                              ORDER BY w.epoch, w.xid, w.seq), '[]') FROM wanted w),
        'upto', CASE WHEN size.full
                     THEN (SELECT journal_position_{{v}}(l.epoch, l.xid, l.seq) FROM looked l
                           ORDER BY l.epoch DESC, l.xid DESC, l.seq DESC LIMIT 1)
                     ELSE journal_position_{{v}}(journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0) END,
        'more', size.full)
    INTO found FROM size;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- A page of one tenant: {tenant_id, live, after_event | after, until, types, most, look}. It looks at no more than `look` rows,
-- so that a rare type costs a bounded call and not a walk through everything; a page may then be empty with more to come.
-- after_event is an event of the tenant (event_cursor_unknown when it is not), after and until are positions. `last` is the
-- event that a client names to go on from here.
CREATE OR REPLACE FUNCTION journal_page_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    most integer := (p->>'most')::integer;
    look integer := CASE WHEN p ? 'types' THEN (p->>'look')::integer ELSE (p->>'most')::integer + 1 END;
    types text[] := ARRAY(SELECT jsonb_array_elements_text(p->'types'));
    at_epoch integer := COALESCE((p->'after'->>'epoch')::integer, 0);
    at_xid xid8 := COALESCE(p->'after'->>'xid', '0')::xid8;
    at_seq bigint := COALESCE((p->'after'->>'seq')::bigint, 0);
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF p ? 'after_event' THEN
        SELECT j.epoch, j.xid, j.seq INTO at_epoch, at_xid, at_seq FROM journal j
        WHERE j.tenant_id = tenant AND j.live = is_live AND j.event_id = (p->>'after_event')::uuid;
        IF NOT FOUND THEN
            PERFORM refuse_{{v}}('event_cursor_unknown');
        END IF;
    END IF;
    RETURN (
        WITH looked AS (
            SELECT * FROM journal j
            WHERE j.tenant_id = tenant AND j.live = is_live AND (j.epoch, j.xid, j.seq) > (at_epoch, at_xid, at_seq)
              AND (j.epoch, j.xid, j.seq) < (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0)
              AND (NOT p ? 'until' OR (j.epoch, j.xid, j.seq)
                   <= ((p->'until'->>'epoch')::integer, (p->'until'->>'xid')::xid8, (p->'until'->>'seq')::bigint))
            ORDER BY j.epoch, j.xid, j.seq LIMIT look),
        matching AS (
            SELECT * FROM looked WHERE NOT p ? 'types' OR type = ANY (types) ORDER BY epoch, xid, seq LIMIT most + 1),
        shown AS (SELECT * FROM matching ORDER BY epoch, xid, seq LIMIT most),
        size AS (SELECT (SELECT count(*) FROM matching) > most AS cut, (SELECT count(*) FROM looked) = look AS full),
        stop AS (
            (SELECT s.epoch, s.xid, s.seq, s.event_id FROM shown s, size WHERE size.cut
             ORDER BY s.epoch DESC, s.xid DESC, s.seq DESC LIMIT 1)
            UNION ALL
            (SELECT l.epoch, l.xid, l.seq, l.event_id FROM looked l, size WHERE NOT size.cut
             ORDER BY l.epoch DESC, l.xid DESC, l.seq DESC LIMIT 1))
        SELECT jsonb_build_object(
            'entries', (SELECT COALESCE(jsonb_agg(to_jsonb(s) || jsonb_build_object('xid', s.xid::text::bigint)
                                                  ORDER BY s.epoch, s.xid, s.seq), '[]') FROM shown s),
            'upto', CASE WHEN size.cut OR size.full
                         THEN (SELECT journal_position_{{v}}(stop.epoch, stop.xid, stop.seq) FROM stop)
                         WHEN p ? 'until' THEN p->'until'
                         -- An event that the client knows from the audit trail may stand above the horizon still.
                         WHEN (at_epoch, at_xid) >= (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()))
                         THEN journal_position_{{v}}(at_epoch, at_xid, at_seq)
                         ELSE journal_position_{{v}}(journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0) END,
            'more', size.cut OR size.full,
            'last', (SELECT stop.event_id FROM stop))
        FROM size);
END $$;
