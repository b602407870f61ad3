-- Moving a test clock: from one due instant to the next, under a lease, until it stands where it was told to go.
--
--   clock_claim    take the lease of a clock that moves and that nobody moves
--   clock_step     where it stands now: at an instant where something is due, waiting for payments, or at its end
--   clock_release  give the lease back
--
-- What is due at an instant is done between two steps, by the functions that do it for everybody; a step finds it by the same columns.

CREATE OR REPLACE FUNCTION clock_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    c test_clocks;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE test_clocks SET lease_token = (p->>'lease_token')::uuid, lease_until = (p->>'lease_until')::timestamptz
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND test_clock_id = (
        SELECT test_clock_id FROM test_clocks
        WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND status = 'advancing'
          AND (lease_until IS NULL OR lease_until <= (p->>'now')::timestamptz)
        ORDER BY updated_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING * INTO c;
    RETURN to_jsonb(c.test_clock_id);
END $$;

-- p: test_clock_id, lease_token, lease_until, patience_s: how old (by everybody's time) a payment may be that is still waited for;
-- collects, sends: whether somebody does what is due of rebills and of notices.
-- Returns {"at": instant, "moved": it came there now} when something is due there, {"busy": true} while payments are under way, or
-- {"done": true}. A clock moves on only when nothing is due any more where it stands, and no payment of its customers is under way.
CREATE OR REPLACE FUNCTION clock_step_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    c test_clocks;
    due timestamptz;
    moves boolean;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO c FROM test_clocks
    WHERE tenant_id = tenant AND live = is_live AND test_clock_id = (p->>'test_clock_id')::uuid FOR NO KEY UPDATE;
    IF c.status IS DISTINCT FROM 'advancing' OR c.lease_token IS DISTINCT FROM (p->>'lease_token')::uuid THEN
        PERFORM refuse_{{v}}('test_clock_lease_lost');
    END IF;
    due := least(
        (SELECT min(next_at) FROM subscriptions WHERE tenant_id = tenant AND live = is_live AND test_clock_id = c.test_clock_id),
        CASE WHEN (p->>'collects')::boolean THEN
            (SELECT min(next_at) FROM rebills WHERE tenant_id = tenant AND live = is_live AND test_clock_id = c.test_clock_id
             AND next_at IS NOT NULL) END,
        CASE WHEN (p->>'sends')::boolean THEN
            (SELECT min(due_at) FROM notices WHERE tenant_id = tenant AND live = is_live AND test_clock_id = c.test_clock_id
             AND due_at IS NOT NULL) END);
    moves := due IS NULL OR due > c.now_at;
    IF moves AND EXISTS (
        SELECT FROM operations o
        JOIN payment_intents i USING (tenant_id, live, payment_id)
        JOIN customers u USING (tenant_id, live, customer_id)
        WHERE o.tenant_id = tenant AND o.live = is_live AND o.clock_at IS NOT NULL
          AND o.state IN ('prepared', 'submitted', 'pending', 'unknown') AND u.test_clock_id = c.test_clock_id
          AND o.created_at > moment - make_interval(secs => (p->>'patience_s')::double precision)) THEN
        UPDATE test_clocks SET lease_until = (p->>'lease_until')::timestamptz
        WHERE tenant_id = tenant AND live = is_live AND test_clock_id = c.test_clock_id;
        RETURN '{"busy": true}';
    END IF;
    IF due IS NULL OR due > c.target_at THEN
        UPDATE test_clocks SET status = 'ready', now_at = target_at, target_at = NULL, lease_token = NULL, lease_until = NULL,
            sequence = sequence + 1, updated_at = moment
        WHERE tenant_id = tenant AND live = is_live AND test_clock_id = c.test_clock_id RETURNING * INTO c;
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'advanced ' || c.test_clock_id || ' ' || c.sequence), 'test_clock.advanced',
            'test_clock', c.test_clock_id, c.sequence, NULL, jsonb_build_object('status', c.status, 'now_at', c.now_at,
            'steps', c.steps));
        RETURN '{"done": true}';
    END IF;
    UPDATE test_clocks SET now_at = greatest(now_at, due), steps = steps + moves::integer,
        lease_until = (p->>'lease_until')::timestamptz, updated_at = moment
    WHERE tenant_id = tenant AND live = is_live AND test_clock_id = c.test_clock_id RETURNING * INTO c;
    RETURN jsonb_build_object('at', c.now_at, 'moved', moves);
END $$;

CREATE OR REPLACE FUNCTION clock_release_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE test_clocks SET lease_token = NULL, lease_until = NULL, updated_at = (p->>'now')::timestamptz
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND test_clock_id = (p->>'test_clock_id')::uuid
      AND lease_token = (p->>'lease_token')::uuid;
    RETURN to_jsonb(FOUND);
END $$;
