-- The tree over the journal: reading what is to be sealed, appending, signing, pushing. journal/seal.py and journal/checkpoint.py
-- call these. The functions that see all tenants are SECURITY DEFINER, since the application has no right on the tables of the tree.

-- A row in the form that is hashed (journal/canonical.py), as JSON whose text keeps data byte for byte.
CREATE OR REPLACE FUNCTION audit_row_{{v}}(j journal) RETURNS json LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT json_build_object(
        'actor_id', j.actor_id, 'actor_type', j.actor_type,
        'at', CASE WHEN isfinite(j.at) THEN to_json(trunc(extract(epoch FROM j.at) * 1000000)::bigint) ELSE to_json(j.at::text) END,
        'customer_id', j.customer_id, 'data', j.data::text::json, 'epoch', j.epoch, 'event_id', j.event_id, 'live', j.live,
        'request_id', j.request_id, 'seq', j.seq, 'sequence', j.sequence, 'subject_id', j.subject_id,
        'subject_type', j.subject_type, 'tenant_id', j.tenant_id, 'type', j.type, 'xid', j.xid::text::numeric);
$$;

-- Elects the caller for its transaction, and tells what there is to seal: {most} -> {size, edge, rows}, or {} for all others.
-- The caller computes hashes while it holds the lock; as it has written nothing, its transaction has no xid and holds up no reader.
-- edge lists, per kept level from the leaves up, the hashes after the last full tile.
CREATE OR REPLACE FUNCTION seal_next_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    tip journal_leaves;
    size bigint;
    found json;
BEGIN
    IF NOT pg_try_advisory_xact_lock(x'636c6561'::int, 1) THEN
        RETURN '{}';
    END IF;
    PERFORM set_config('app.system', 'on', true);
    SELECT * INTO tip FROM journal_leaves ORDER BY leaf_index DESC LIMIT 1;
    size := COALESCE(tip.leaf_index + 1, 0);
    SELECT json_build_object(
        'size', size,
        'edge', (SELECT COALESCE(json_agg(hashes ORDER BY level), '[]') FROM (
                    SELECT level, COALESCE((
                        SELECT json_agg(encode(k.hash, 'hex') ORDER BY k.index) FROM (
                            SELECT leaf_index AS index, hash FROM journal_leaves
                            WHERE level = 0 AND leaf_index >= size >> 4 << 4
                            UNION ALL
                            SELECT n.index, n.hash FROM journal_nodes n
                            WHERE n.level = edge.level AND n.index >= size >> edge.level >> 4 << 4) k), '[]') AS hashes
                    FROM generate_series(0, 60, 4) AS edge (level) WHERE size >> level > 0) levels),
        'rows', (SELECT COALESCE(json_agg(audit_row_{{v}}(j) ORDER BY j.epoch, j.xid, j.seq), '[]') FROM (
                    SELECT * FROM journal
                    WHERE (epoch, xid, seq) > (COALESCE(tip.epoch, 0), COALESCE(tip.xid, '0'), COALESCE(tip.seq, 0))
                      AND (epoch, xid, seq) < (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0)
                      AND seq > 0 -- always so, see journal_tail
                    ORDER BY epoch, xid, seq LIMIT (p->>'most')::integer) j))
    INTO found;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- Appends what the elected caller has hashed: {size, leaves, nodes}. The primary keys refuse whatever would seal a place twice.
CREATE OR REPLACE FUNCTION seal_append_{{v}}(p jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    INSERT INTO journal_leaves (leaf_index, tenant_id, live, event_id, epoch, xid, seq, hash)
    SELECT (p->>'size')::bigint + l.place - 1, l.tenant_id, l.live, l.event_id, l.epoch, l.xid::text::xid8, l.seq,
           decode(l.hash, 'hex')
    FROM ROWS FROM (jsonb_to_recordset(p->'leaves') AS (tenant_id uuid, live boolean, event_id uuid, epoch integer, xid numeric,
                                                        seq bigint, hash text)) WITH ORDINALITY
         AS l (tenant_id, live, event_id, epoch, xid, seq, hash, place);
    INSERT INTO journal_nodes (level, index, hash)
    SELECT n.level, n.index, decode(n.hash, 'hex')
    FROM jsonb_to_recordset(p->'nodes') AS n (level smallint, index bigint, hash text);
    PERFORM set_config('app.system', '', true);
END $$;

-- Hashes of full subtrees: {nodes: [[level, index], ...]} -> [hex, ...], null where there is none. Hashes tell nothing about what they cover.
CREATE OR REPLACE FUNCTION audit_nodes_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found json;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    -- A look into an index per hash: joined, the planner may read whole tables.
    SELECT COALESCE(json_agg(encode(
        CASE WHEN w.level = 0 THEN (SELECT l.hash FROM journal_leaves l WHERE l.leaf_index = w.index)
             ELSE (SELECT n.hash FROM journal_nodes n WHERE n.level = w.level AND n.index = w.index) END, 'hex')
        ORDER BY w.place), '[]') INTO found
    FROM (SELECT (e.value->>0)::smallint AS level, (e.value->>1)::bigint AS index, e.place
          FROM jsonb_array_elements(p->'nodes') WITH ORDINALITY AS e (value, place)) w;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- How the tree stands: {} -> {size, unsealed_at, checkpoint, behind_at, pushes}. unsealed_at is when the oldest event happened that
-- is in no leaf, behind_at the oldest that is in a leaf and under no checkpoint.
CREATE OR REPLACE FUNCTION audit_state_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    tip journal_leaves;
    last checkpoints;
    found json;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT * INTO tip FROM journal_leaves ORDER BY leaf_index DESC LIMIT 1;
    SELECT * INTO last FROM checkpoints ORDER BY number DESC LIMIT 1;
    SELECT json_build_object(
        'size', COALESCE(tip.leaf_index + 1, 0),
        'unsealed_at', (SELECT at FROM journal
                        WHERE (epoch, xid, seq) > (COALESCE(tip.epoch, 0), COALESCE(tip.xid, '0'), COALESCE(tip.seq, 0)) AND seq > 0
                        ORDER BY epoch, xid, seq LIMIT 1),
        'behind_at', (SELECT j.at FROM journal_leaves l JOIN journal j USING (tenant_id, live, event_id)
                      WHERE l.leaf_index = COALESCE(last.size, 0)),
        'checkpoint', CASE WHEN last.number IS NOT NULL THEN audit_checkpoint_{{v}}(last) END,
        'pushes', (SELECT COALESCE(json_agg(json_build_object('target', target, 'pushed', pushed, 'failures', failures)), '[]')
                   FROM checkpoint_pushes))
    INTO found;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

CREATE OR REPLACE FUNCTION audit_checkpoint_{{v}}(c checkpoints) RETURNS json LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT json_build_object('number', c.number, 'size', c.size, 'root', encode(c.root, 'hex'), 'note', c.note,
                             'created_at', c.created_at, 'mac', encode(c.mac, 'hex'));
$$;

-- Checkpoints, newest first: {before, most} -> [...]. before is a number.
CREATE OR REPLACE FUNCTION audit_checkpoints_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found json;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(json_agg(audit_checkpoint_{{v}}(c) ORDER BY c.number DESC), '[]') INTO found FROM (
        SELECT * FROM checkpoints WHERE NOT p ? 'before' OR number < (p->>'before')::bigint
        ORDER BY number DESC LIMIT (p->>'most')::integer) c;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- Keeps a checkpoint unless another worker was first: {number, size, root, note, created_at, mac} -> true when it was kept.
CREATE OR REPLACE FUNCTION checkpoint_add_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    kept integer;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    INSERT INTO checkpoints (number, size, root, note, created_at, mac)
    VALUES ((p->>'number')::bigint, (p->>'size')::bigint, decode(p->>'root', 'hex'), p->>'note', (p->>'created_at')::timestamptz,
            decode(p->>'mac', 'hex'))
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS kept = ROW_COUNT;
    PERFORM set_config('app.system', '', true);
    RETURN to_json(kept = 1);
END $$;

-- Takes a push in hand: {target, now, until, most} -> the next checkpoints for this target, oldest first; none while another worker
-- is at it, or it is not due.
CREATE OR REPLACE FUNCTION push_next_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    cursor_at bigint;
    given json := '[]';
BEGIN
    PERFORM set_config('app.system', 'on', true);
    INSERT INTO checkpoint_pushes (target, due_at, updated_at)
    VALUES (p->>'target', (p->>'now')::timestamptz, (p->>'now')::timestamptz) ON CONFLICT DO NOTHING;
    UPDATE checkpoint_pushes t SET due_at = (p->>'until')::timestamptz, updated_at = (p->>'now')::timestamptz
    WHERE t.target = p->>'target' AND t.due_at <= (p->>'now')::timestamptz
      AND EXISTS (SELECT FROM checkpoints c WHERE c.number > t.pushed)
    RETURNING pushed INTO cursor_at;
    IF FOUND THEN
        SELECT json_agg(audit_checkpoint_{{v}}(c) ORDER BY c.number) INTO given FROM (
            SELECT * FROM checkpoints WHERE number > cursor_at ORDER BY number LIMIT (p->>'most')::integer) c;
    END IF;
    PERFORM set_config('app.system', '', true);
    RETURN given;
END $$;

-- Tells how it went: {target, pushed, failed, now, pause_s, pause_s_max}. The cursor never goes back; the pause doubles with each
-- failure in a row.
CREATE OR REPLACE FUNCTION push_done_{{v}}(p jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE checkpoint_pushes
    SET pushed = GREATEST(pushed, (p->>'pushed')::bigint), failures = CASE WHEN (p->>'failed')::boolean THEN failures + 1 ELSE 0 END,
        due_at = (p->>'now')::timestamptz
            + LEAST((p->>'pause_s')::float8 * 2 ^ LEAST(failures, 20), (p->>'pause_s_max')::float8) * interval '1 second',
        updated_at = (p->>'now')::timestamptz
    WHERE target = p->>'target';
    PERFORM set_config('app.system', '', true);
END $$;

-- A tenant's own rows: {tenant_id, live, after, most} -> [{index, row}], in order; after is a position. index is null while a row is
-- not sealed. Row security holds: this function is nobody but its caller.
CREATE OR REPLACE FUNCTION audit_leaves_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (
        SELECT COALESCE(json_agg(json_build_object(
            'index', (SELECT l.leaf_index FROM journal_leaves l
                      WHERE l.tenant_id = tenant AND l.live = is_live AND l.event_id = j.event_id),
            'row', audit_row_{{v}}(j)) ORDER BY j.epoch, j.xid, j.seq), '[]')
        FROM (SELECT * FROM journal
              WHERE tenant_id = tenant AND live = is_live
                AND (epoch, xid, seq) > ((p->'after'->>'epoch')::integer, (p->'after'->>'xid')::xid8, (p->'after'->>'seq')::bigint)
              ORDER BY epoch, xid, seq LIMIT (p->>'most')::integer) j);
END $$;

-- One of them: {tenant_id, live, event_id} -> the same, with one row or none.
CREATE OR REPLACE FUNCTION audit_leaf_{{v}}(p jsonb) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(json_agg(json_build_object('index', l.leaf_index, 'row', audit_row_{{v}}(j))), '[]')
            FROM journal j LEFT JOIN journal_leaves l USING (tenant_id, live, event_id)
            WHERE j.tenant_id = (p->>'tenant_id')::uuid AND j.live = (p->>'live')::boolean
              AND j.event_id = (p->>'event_id')::uuid);
END $$;
