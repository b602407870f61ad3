-- From the journal to the endpoints: find work (across tenants), relay events into deliveries, claim, settle, replay, purge.
--
-- Exactly one delivery per endpoint and event: the relay moves an endpoint's cursor and makes its rows in one transaction, under
-- the endpoint's row lock, and (endpoint, event) is unique besides. At least once to the consumer: a delivery is claimed under a
-- lease, sent outside any transaction, and settled by whoever still holds the lease's token.
--
-- Order: a delivery is claimed only when no earlier one of the same subject to the same endpoint is pending. One that has to wait
-- is put off to the time at which the earlier one comes due, so that it costs nothing meanwhile; settling the earlier calls it.

-- What there is to do: {now, scopes, before}. endpoints: those that are behind the journal or have a delivery due; next_at: when
-- the next one comes due; waiting_since: the oldest thing that waits for us and not for a consumer; old: tenants and modes with
-- deliveries from before `before`. Without scopes, everywhere.
CREATE OR REPLACE FUNCTION webhook_work_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    WITH looked AS (
        SELECT e.tenant_id, e.live, e.webhook_endpoint_id, unread.at AS behind_since, first.due_at
        FROM webhook_endpoints e
        LEFT JOIN LATERAL (
            SELECT j.at FROM journal j
            WHERE j.tenant_id = e.tenant_id AND j.live = e.live
              AND (j.epoch, j.xid, j.seq) > (e.cursor_epoch, e.cursor_xid, e.cursor_seq)
              AND (j.epoch, j.xid, j.seq) < (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0)
            ORDER BY j.epoch, j.xid, j.seq LIMIT 1) AS unread ON true
        LEFT JOIN LATERAL (
            SELECT d.due_at FROM webhook_deliveries d
            WHERE d.tenant_id = e.tenant_id AND d.live = e.live AND d.webhook_endpoint_id = e.webhook_endpoint_id
              AND d.due_at IS NOT NULL
            ORDER BY d.due_at LIMIT 1) AS first ON true
        WHERE e.status = 'enabled'
          AND (p->'scopes' IS NULL OR (e.tenant_id, e.live) IN (
              SELECT s.tenant_id, s.live FROM jsonb_to_recordset(p->'scopes') AS s (tenant_id uuid, live boolean))))
    SELECT jsonb_build_object(
        'endpoints', (SELECT COALESCE(jsonb_agg(jsonb_build_object('tenant_id', l.tenant_id, 'live', l.live,
                          'webhook_endpoint_id', l.webhook_endpoint_id, 'behind', l.behind_since IS NOT NULL)
                          ORDER BY LEAST(l.behind_since, l.due_at)), '[]')
                      FROM looked l WHERE l.behind_since IS NOT NULL OR l.due_at <= moment),
        'next_at', (SELECT min(l.due_at) FROM looked l WHERE l.due_at > moment),
        'waiting_since', (SELECT min(LEAST(l.behind_since, l.due_at)) FROM looked l
                          WHERE l.behind_since IS NOT NULL OR l.due_at <= moment),
        'old', (SELECT COALESCE(jsonb_agg(DISTINCT jsonb_build_object('tenant_id', o.tenant_id, 'live', o.live)), '[]')
                FROM (SELECT d.tenant_id, d.live FROM webhook_deliveries d
                      WHERE d.created_at < (p->>'before')::timestamptz ORDER BY d.created_at LIMIT 1000) AS o))
    INTO found;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- Always the same for the same endpoint and event; begins with the event's time, so that newer events have higher ids.
CREATE OR REPLACE FUNCTION webhook_delivery_id_{{v}}(endpoint uuid, event uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (left(replace(event::text, '-', ''), 12) || '7' || left(h, 3) || '8' || substr(h, 4, 15))::uuid
    FROM md5(endpoint::text || event::text) AS h;
$$;

CREATE OR REPLACE FUNCTION webhook_wants_{{v}}(events text[], type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT type <> 'webhook_endpoint.test' AND events && ARRAY['*', split_part(type, '.', 1) || '.*', type];
$$;

-- Make deliveries of what an endpoint has not been told: {tenant_id, live, webhook_endpoint_id, now, after, most}. Events from
-- before `after` are too old to be told. Another process at the same endpoint is left alone. Answers {made, more}.
CREATE OR REPLACE FUNCTION webhook_relay_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    most integer := (p->>'most')::integer;
    e webhook_endpoints;
    made integer;
    looked integer;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO e FROM webhook_endpoints
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
      AND webhook_endpoint_id = (p->>'webhook_endpoint_id')::uuid AND status = 'enabled'
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('made', 0, 'more', false);
    END IF;
    WITH unread AS MATERIALIZED (
        SELECT j.* FROM journal j
        WHERE j.tenant_id = e.tenant_id AND j.live = e.live
          AND (j.epoch, j.xid, j.seq) > (e.cursor_epoch, e.cursor_xid, e.cursor_seq)
          AND (j.epoch, j.xid, j.seq) < (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0)
        ORDER BY j.epoch, j.xid, j.seq LIMIT most),
    delivery AS (
        INSERT INTO webhook_deliveries (tenant_id, live, delivery_id, webhook_endpoint_id, event_id, event_type, subject_id,
                                        epoch, xid, seq, due_at, created_at, updated_at)
        SELECT u.tenant_id, u.live, webhook_delivery_id_{{v}}(e.webhook_endpoint_id, u.event_id), e.webhook_endpoint_id,
               u.event_id, u.type, u.subject_id, u.epoch, u.xid, u.seq, moment, moment, moment
        FROM unread u WHERE webhook_wants_{{v}}(e.events, u.type) AND u.at > (p->>'after')::timestamptz
        ORDER BY u.epoch, u.xid, u.seq
        ON CONFLICT DO NOTHING
        RETURNING 1),
    moved AS (
        UPDATE webhook_endpoints w SET cursor_epoch = u.epoch, cursor_xid = u.xid, cursor_seq = u.seq
        FROM (SELECT * FROM unread ORDER BY epoch DESC, xid DESC, seq DESC LIMIT 1) AS u
        WHERE w.tenant_id = e.tenant_id AND w.live = e.live AND w.webhook_endpoint_id = e.webhook_endpoint_id)
    SELECT (SELECT count(*) FROM delivery), (SELECT count(*) FROM unread) INTO made, looked;
    RETURN jsonb_build_object('made', made, 'more', looked = most);
END $$;

-- Take deliveries that are due: {tenant_id, live, webhook_endpoint_id, now, lease_until, token, most}. Answers the endpoint, the
-- deliveries with their journal entries, and whether there was more to look at.
CREATE OR REPLACE FUNCTION webhook_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    most integer := (p->>'most')::integer;
    soon timestamptz := (p->>'now')::timestamptz + interval '1 second';
    e webhook_endpoints;
    d webhook_deliveries;
    earlier webhook_deliveries;
    taken uuid[] := '{}';
    looked integer := 0;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO e FROM webhook_endpoints
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
      AND webhook_endpoint_id = (p->>'webhook_endpoint_id')::uuid AND status = 'enabled';
    IF NOT FOUND THEN
        RETURN jsonb_build_object('deliveries', '[]'::jsonb, 'more', false);
    END IF;
    FOR d IN
        SELECT * FROM webhook_deliveries
        WHERE tenant_id = e.tenant_id AND live = e.live AND webhook_endpoint_id = e.webhook_endpoint_id AND due_at <= moment
        ORDER BY due_at, epoch, xid, seq LIMIT most + 50 FOR UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN cardinality(taken) = most;
        looked := looked + 1;
        SELECT * INTO earlier FROM webhook_deliveries h
        WHERE h.tenant_id = d.tenant_id AND h.live = d.live AND h.webhook_endpoint_id = d.webhook_endpoint_id
          AND h.subject_id = d.subject_id AND h.state = 'pending' AND (h.epoch, h.xid, h.seq) < (d.epoch, d.xid, d.seq)
        ORDER BY h.epoch, h.xid, h.seq LIMIT 1;
        IF FOUND THEN
            -- One that is being tried is settled soon, and settling calls this one; one that failed is tried at its time.
            UPDATE webhook_deliveries
            SET due_at = CASE WHEN earlier.lease_token IS NULL THEN GREATEST(earlier.due_at, soon) ELSE soon END
            WHERE tenant_id = d.tenant_id AND live = d.live AND delivery_id = d.delivery_id;
        ELSE
            UPDATE webhook_deliveries SET lease_token = (p->>'token')::uuid, due_at = (p->>'lease_until')::timestamptz
            WHERE tenant_id = d.tenant_id AND live = d.live AND delivery_id = d.delivery_id;
            taken := taken || d.delivery_id;
        END IF;
    END LOOP;
    RETURN jsonb_build_object(
        'url', e.url, 'secret', translate(encode(e.secret, 'base64'), E'\n', ''),
        'previous_secret', CASE WHEN e.previous_until > moment THEN translate(encode(e.previous_secret, 'base64'), E'\n', '') END,
        'more', looked = most + 50,
        'deliveries', (
            SELECT COALESCE(jsonb_agg(jsonb_build_object('delivery_id', t.delivery_id, 'tries', t.tries,
                       'entry', to_jsonb(j) || jsonb_build_object('xid', j.xid::text::bigint))
                       ORDER BY t.epoch, t.xid, t.seq), '[]')
            FROM webhook_deliveries t
            JOIN journal j ON j.tenant_id = t.tenant_id AND j.live = t.live AND j.event_id = t.event_id
            WHERE t.tenant_id = e.tenant_id AND t.live = e.live AND t.delivery_id = ANY (taken)));
END $$;

-- Note one attempt and what follows from it: {tenant_id, live, delivery_id, token, now, result, retry_at, counts, disable_before,
-- attempt, event_id, actor_type, actor_id, request_id}. result: delivered, retry, failed or gone. Whoever lost the lease changes
-- nothing. With counts the attempt speaks for the endpoint: one that failed since disable_before without a success is disabled.
CREATE OR REPLACE FUNCTION webhook_settle_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    result text := p->>'result';
    d webhook_deliveries;
    e webhook_endpoints;
    why text;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE webhook_deliveries SET
        state = CASE result WHEN 'delivered' THEN 'delivered' WHEN 'retry' THEN 'pending' ELSE 'failed' END,
        due_at = CASE result WHEN 'retry' THEN (p->>'retry_at')::timestamptz END,
        lease_token = NULL, tries = tries + 1, attempts = attempts + 1,
        last_status = (p->'attempt'->>'status')::smallint, last_error = p->'attempt'->>'error', updated_at = moment,
        delivered_at = CASE result WHEN 'delivered' THEN moment ELSE delivered_at END
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND delivery_id = (p->>'delivery_id')::uuid
      AND lease_token = (p->>'token')::uuid
    RETURNING * INTO d;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('settled', false);
    END IF;
    INSERT INTO webhook_attempts (tenant_id, live, delivery_id, number, at, duration_ms, status, error, answer)
    VALUES (d.tenant_id, d.live, d.delivery_id, d.attempts, (p->'attempt'->>'at')::timestamptz,
            (p->'attempt'->>'duration_ms')::integer, d.last_status, d.last_error, p->'attempt'->>'answer');
    IF result <> 'retry' THEN
        UPDATE webhook_deliveries n SET due_at = moment
        FROM (SELECT delivery_id FROM webhook_deliveries
              WHERE tenant_id = d.tenant_id AND live = d.live AND webhook_endpoint_id = d.webhook_endpoint_id
                AND subject_id = d.subject_id AND state = 'pending' AND (epoch, xid, seq) > (d.epoch, d.xid, d.seq)
              ORDER BY epoch, xid, seq LIMIT 1) AS next
        WHERE n.tenant_id = d.tenant_id AND n.live = d.live AND n.delivery_id = next.delivery_id
          AND n.lease_token IS NULL AND n.tries = 0 AND n.due_at > moment;
    END IF;
    IF (p->>'counts')::boolean THEN
        IF result = 'delivered' THEN
            UPDATE webhook_endpoints SET failing_since = NULL
            WHERE tenant_id = d.tenant_id AND live = d.live AND webhook_endpoint_id = d.webhook_endpoint_id
              AND failing_since IS NOT NULL;
        ELSE
            UPDATE webhook_endpoints SET failing_since = moment
            WHERE tenant_id = d.tenant_id AND live = d.live AND webhook_endpoint_id = d.webhook_endpoint_id
              AND failing_since IS NULL;
            UPDATE webhook_endpoints SET status = 'disabled', disabled_at = moment, updated_at = moment, sequence = sequence + 1,
                disabled_reason = CASE result WHEN 'gone' THEN 'gone' ELSE 'failing' END
            WHERE tenant_id = d.tenant_id AND live = d.live AND webhook_endpoint_id = d.webhook_endpoint_id
              AND status = 'enabled' AND (result = 'gone' OR failing_since <= (p->>'disable_before')::timestamptz)
            RETURNING * INTO e;
            IF FOUND THEN
                why := e.disabled_reason;
                PERFORM journal_write_{{v}}(p, (p->>'event_id')::uuid, 'webhook_endpoint.disabled', 'webhook_endpoint',
                    e.webhook_endpoint_id, e.sequence, NULL, jsonb_build_object('reason', why));
            END IF;
        END IF;
    END IF;
    RETURN jsonb_build_object('settled', true, 'disabled', why);
END $$;

-- The delivery of a test event, already in the hands of whoever asks: {tenant_id, live, webhook_endpoint_id, event_id, now,
-- lease_until, token}. Answers its id.
CREATE OR REPLACE FUNCTION webhook_test_{{v}}(p jsonb) RETURNS uuid LANGUAGE sql AS $$
    INSERT INTO webhook_deliveries (tenant_id, live, delivery_id, webhook_endpoint_id, event_id, event_type, subject_id, epoch,
                                    xid, seq, due_at, lease_token, created_at, updated_at)
    SELECT j.tenant_id, j.live, webhook_delivery_id_{{v}}((p->>'webhook_endpoint_id')::uuid, j.event_id),
           (p->>'webhook_endpoint_id')::uuid, j.event_id, j.type, j.subject_id, j.epoch, j.xid, j.seq,
           (p->>'lease_until')::timestamptz, (p->>'token')::uuid, (p->>'now')::timestamptz, (p->>'now')::timestamptz
    FROM journal j
    WHERE j.tenant_id = (p->>'tenant_id')::uuid AND j.live = (p->>'live')::boolean AND j.event_id = (p->>'event_id')::uuid
    RETURNING delivery_id;
$$;

-- Send again what happened in a time: {tenant_id, live, webhook_endpoint_id, now, since, until, first_id, last_id, events,
-- only_failed, most}. Events the endpoint was never told (it did not ask for them then) get their delivery now; one that is being
-- tried stays as it is. first_id and last_id enclose the ids of events of that time. Refuses more than `most`. Answers how many.
CREATE OR REPLACE FUNCTION webhook_replay_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    most integer := (p->>'most')::integer;
    only_failed boolean := (p->>'only_failed')::boolean;
    wanted text[] := ARRAY(SELECT jsonb_array_elements_text(p->'events'));
    e webhook_endpoints;
    looked integer;
    changed integer;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO e FROM webhook_endpoints
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
      AND webhook_endpoint_id = (p->>'webhook_endpoint_id')::uuid;
    WITH asked AS MATERIALIZED (
        SELECT j.* FROM journal j
        WHERE j.tenant_id = e.tenant_id AND j.live = e.live
          AND j.event_id >= (p->>'first_id')::uuid AND j.event_id <= (p->>'last_id')::uuid
          AND j.at >= (p->>'since')::timestamptz AND j.at < (p->>'until')::timestamptz
          -- What lies above the cursor is on its way anyhow.
          AND (j.epoch, j.xid, j.seq) <= (e.cursor_epoch, e.cursor_xid, e.cursor_seq)
          AND webhook_wants_{{v}}(wanted, j.type)
          AND (NOT only_failed OR EXISTS (
              SELECT FROM webhook_deliveries f
              WHERE f.tenant_id = j.tenant_id AND f.live = j.live AND f.webhook_endpoint_id = e.webhook_endpoint_id
                AND f.event_id = j.event_id AND f.state = 'failed'))
        LIMIT most + 1),
    again AS (
        INSERT INTO webhook_deliveries AS d (tenant_id, live, delivery_id, webhook_endpoint_id, event_id, event_type, subject_id,
                                             epoch, xid, seq, due_at, replays, created_at, updated_at)
        SELECT a.tenant_id, a.live, webhook_delivery_id_{{v}}(e.webhook_endpoint_id, a.event_id), e.webhook_endpoint_id,
               a.event_id, a.type, a.subject_id, a.epoch, a.xid, a.seq, moment, 1, moment, moment
        FROM asked a ORDER BY a.epoch, a.xid, a.seq
        ON CONFLICT (tenant_id, live, webhook_endpoint_id, event_id) DO UPDATE
            SET state = 'pending', due_at = moment, tries = 0, replays = d.replays + 1, updated_at = moment
            WHERE d.lease_token IS NULL
        RETURNING 1)
    SELECT (SELECT count(*) FROM asked), (SELECT count(*) FROM again) INTO looked, changed;
    IF looked > most THEN
        PERFORM refuse_{{v}}('webhook_replay_too_large', jsonb_build_object('deliveries_max', most));
    END IF;
    RETURN jsonb_build_object('deliveries', changed);
END $$;

-- Forget deliveries from before p->'before' with their attempts, oldest first: {tenant_id, live, before, most}. Returns how many.
CREATE OR REPLACE FUNCTION webhook_purge_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    purged integer;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    DELETE FROM webhook_deliveries d USING (
        SELECT delivery_id FROM webhook_deliveries
        WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND created_at < (p->>'before')::timestamptz
          AND lease_token IS NULL
        ORDER BY created_at LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED) AS old
    WHERE d.tenant_id = (p->>'tenant_id')::uuid AND d.live = (p->>'live')::boolean AND d.delivery_id = old.delivery_id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN to_jsonb(purged);
END $$;
