-- Collecting invoices: who charges what, at which pace, and what is decided after a decline.
--
--   rebills_claim      take due rebills under a lease, as many as the pace of their PSP accounts allows
--   rebill_situations  what a decision depends on, of rebills that wait for one
--   rebill_decide      store a decision and all that follows from it, in one transaction
--   rebill_retry       charge again now; rebill_stop: never again; rebill_release: collect an invoice that was held
--   rebills_wake       a subscription has another payment method or mandate: decide anew
--
-- Times: p->>'at' is the moment that counts (a test clock's, when p->>'test_clock_id' names one), p->>'now' the real one, which the pace
-- goes by. Lock order: subscription, invoice, rebill; a claim locks rebills only and waits for no one.

CREATE OR REPLACE FUNCTION rebills_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    at_ timestamptz := (p->>'at')::timestamptz;
    clock uuid := (p->>'test_clock_id')::uuid;
    rate double precision := (p->>'rate_per_s')::double precision;
    left_ integer := (p->>'most')::integer;
    account uuid;
    pace rebill_pace;
    room integer;
    taken uuid[] := '{}';
    picked uuid[];
    ready uuid[];
    again_s double precision;
    moved integer;
    diverted integer := 0;
    answer jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    -- Whose pace it goes by: the subscription's account, its mandate's, else the one that routing takes first.
    UPDATE rebills r SET psp_account_id = f.account
    FROM (SELECT x.invoice_id, COALESCE(s.psp_account_id, m.psp_account_id, (
                 SELECT a.psp_account_id FROM psp_accounts a WHERE a.tenant_id = tenant AND a.live = is_live AND a.status = 'enabled'
                 ORDER BY a.priority, a.name LIMIT 1)) AS account
          FROM rebills x
          JOIN subscriptions s ON s.tenant_id = x.tenant_id AND s.live = x.live AND s.subscription_id = x.subscription_id
          LEFT JOIN mandates m ON m.tenant_id = s.tenant_id AND m.live = s.live AND m.mandate_id = s.mandate_id
          WHERE x.tenant_id = tenant AND x.live = is_live AND x.psp_account_id IS NULL AND x.state IN ('due', 'claimed')
            AND x.next_at <= at_ AND x.test_clock_id IS NOT DISTINCT FROM clock AND (clock IS NOT NULL OR x.test_clock_id IS NULL)
          ORDER BY x.next_at LIMIT 500 FOR NO KEY UPDATE OF x SKIP LOCKED) AS f
    WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = f.invoice_id AND f.account IS NOT NULL;

    FOR account IN
        SELECT a.psp_account_id FROM psp_accounts a WHERE a.tenant_id = tenant AND a.live = is_live
        UNION ALL SELECT NULL -- without any account: the charge is refused, and that is decided upon
    LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM rebills_ready_{{v}}(tenant, is_live, clock, account, at_, 1));
        IF account IS NULL THEN
            room := left_;
        ELSE
            INSERT INTO rebill_pace (tenant_id, live, psp_account_id, tokens, filled_at)
            VALUES (tenant, is_live, account, greatest(rate, 1), moment) ON CONFLICT DO NOTHING;
            SELECT * INTO STRICT pace FROM rebill_pace
            WHERE tenant_id = tenant AND live = is_live AND psp_account_id = account FOR UPDATE;
            CONTINUE WHEN clock IS NULL AND pace.blocked_until > moment;
            -- A burst of one second at most; a clock that is behind another's takes nothing away.
            pace.tokens := least(greatest(rate, 1), pace.tokens
                + rate * greatest(0, extract(epoch FROM moment - pace.filled_at)::double precision));
            room := least(floor(pace.tokens)::integer, left_);
        END IF;
        IF room > 0 THEN
            picked := ARRAY(SELECT r.invoice_id FROM rebills_ready_{{v}}(tenant, is_live, clock, account, at_, room) AS r);
            -- Somebody pays it, or it is over: that is for a decision, not for a charge.
            UPDATE rebills r SET state = 'decide', next_at = at_, lease_token = NULL, sequence = r.sequence + 1, updated_at = at_
            FROM invoices i
            WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = ANY (picked)
              AND i.tenant_id = tenant AND i.live = is_live AND i.invoice_id = r.invoice_id
              AND (i.payment_locked OR i.status <> 'open');
            GET DIAGNOSTICS moved = ROW_COUNT;
            diverted := diverted + moved;
            WITH claimed AS (
                UPDATE rebills r SET state = 'claimed', lease_token = (p->>'lease_token')::uuid,
                    next_at = at_ + make_interval(secs => (p->>'lease_s')::double precision), updated_at = at_
                WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = ANY (picked) AND r.state IN ('due', 'claimed')
                RETURNING r.invoice_id)
            SELECT COALESCE(array_agg(invoice_id), '{}') INTO ready FROM claimed;
            taken := taken || ready;
            left_ := left_ - cardinality(ready);
            pace.tokens := pace.tokens - cardinality(ready);
        END IF;
        IF account IS NOT NULL THEN
            UPDATE rebill_pace SET tokens = pace.tokens, filled_at = greatest(filled_at, moment)
            WHERE tenant_id = tenant AND live = is_live AND psp_account_id = account;
            IF EXISTS (SELECT FROM rebills_ready_{{v}}(tenant, is_live, clock, account, at_, 1)) THEN
                again_s := least(again_s, greatest(0, (1 - pace.tokens) / rate));
            END IF;
        END IF;
        EXIT WHEN left_ <= 0;
    END LOOP;

    SELECT COALESCE(jsonb_agg(jsonb_build_object('invoice_id', i.invoice_id, 'number', i.number, 'customer_id', i.customer_id,
        'subscription_id', s.subscription_id, 'amount_minor', i.due_minor - i.credited_minor, 'currency', i.currency,
        'opened', i.payment_id IS NOT NULL, 'tries', r.tries, 'description', i.description,
        'payment_method_id', COALESCE((r.last_decision->'backup'->>'payment_method_id')::uuid, s.payment_method_id),
        'mandate_id', COALESCE((r.last_decision->'backup'->>'mandate_id')::uuid, s.mandate_id),
        'psp_account_id', CASE WHEN r.last_decision->'backup'->>'mandate_id' IS NOT NULL
            THEN (r.last_decision->'backup'->>'psp_account_id')::uuid ELSE COALESCE(s.psp_account_id, m.psp_account_id) END,
        'reason', COALESCE(r.last_decision->>'reason', 'first_try'), 'first_failed_at', r.first_failed_at)), '[]')
      INTO answer
      FROM rebills r
      JOIN invoices i ON i.tenant_id = r.tenant_id AND i.live = r.live AND i.invoice_id = r.invoice_id
      JOIN subscriptions s ON s.tenant_id = r.tenant_id AND s.live = r.live AND s.subscription_id = r.subscription_id
      LEFT JOIN mandates m ON m.tenant_id = s.tenant_id AND m.live = s.live AND m.mandate_id = s.mandate_id
     WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = ANY (taken);
    PERFORM card_notice_{{v}}(p, s, at_)
    FROM rebills r JOIN subscriptions s ON s.tenant_id = r.tenant_id AND s.live = r.live AND s.subscription_id = r.subscription_id
    WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = ANY (taken);
    RETURN jsonb_build_object('rebills', answer, 'again_s', again_s, 'diverted', diverted);
END $$;

-- Due rebills of one account, oldest first, locked; what others hold is passed over.
CREATE OR REPLACE FUNCTION rebills_ready_{{v}}(tenant uuid, is_live boolean, clock uuid, account uuid, at_ timestamptz, most integer)
RETURNS SETOF rebills LANGUAGE plpgsql AS $$
BEGIN
    IF clock IS NOT NULL THEN
        RETURN QUERY SELECT * FROM rebills r
            WHERE r.tenant_id = tenant AND r.live = is_live AND r.test_clock_id = clock AND r.next_at <= at_
              AND r.state IN ('due', 'claimed') AND r.psp_account_id IS NOT DISTINCT FROM account
            ORDER BY r.next_at, r.invoice_id LIMIT most FOR NO KEY UPDATE SKIP LOCKED;
    ELSIF account IS NULL THEN
        RETURN QUERY SELECT * FROM rebills r
            WHERE r.tenant_id = tenant AND r.live = is_live AND r.psp_account_id IS NULL AND r.test_clock_id IS NULL
              AND r.next_at <= at_ AND r.state IN ('due', 'claimed')
            ORDER BY r.next_at, r.invoice_id LIMIT most FOR NO KEY UPDATE SKIP LOCKED;
    ELSE
        RETURN QUERY SELECT * FROM rebills r
            WHERE r.tenant_id = tenant AND r.live = is_live AND r.psp_account_id = account AND r.test_clock_id IS NULL
              AND r.next_at <= at_ AND r.state IN ('due', 'claimed')
            ORDER BY r.next_at, r.invoice_id LIMIT most FOR NO KEY UPDATE SKIP LOCKED;
    END IF;
END $$;

-- What decisions depend on: of the rebills p->'ids', else of those for which one is due. p->'caps' as in charge_allowed.
CREATE OR REPLACE FUNCTION rebill_situations_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    at_ timestamptz := (p->>'at')::timestamptz;
    clock uuid := (p->>'test_clock_id')::uuid;
    wanted uuid[];
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF p->'ids' IS NOT NULL THEN
        wanted := ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(p->'ids'));
    ELSIF clock IS NULL THEN
        wanted := ARRAY(SELECT invoice_id FROM rebills WHERE tenant_id = tenant AND live = is_live AND test_clock_id IS NULL
            AND next_at <= at_ AND state IN ('decide', 'waiting') ORDER BY next_at LIMIT (p->>'most')::integer);
    ELSE
        wanted := ARRAY(SELECT invoice_id FROM rebills WHERE tenant_id = tenant AND live = is_live AND test_clock_id = clock
            AND next_at <= at_ AND state IN ('decide', 'waiting') ORDER BY next_at LIMIT (p->>'most')::integer);
    END IF;
    RETURN (SELECT COALESCE(jsonb_agg(rebill_situation_{{v}}(r, p->'caps', at_) ORDER BY r.next_at), '[]') FROM rebills r
            WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = ANY (wanted)
              AND r.state IN ('due', 'claimed', 'decide', 'waiting'));
END $$;

CREATE OR REPLACE FUNCTION rebill_situation_{{v}}(r rebills, caps jsonb, at_ timestamptz) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    i invoices;
    s subscriptions;
    c payment_methods;
    m mandates;
    b jsonb := NULLIF(r.last_decision->'backup', 'null');
    made jsonb;
BEGIN
    SELECT * INTO STRICT i FROM invoices WHERE tenant_id = r.tenant_id AND live = r.live AND invoice_id = r.invoice_id;
    SELECT * INTO STRICT s FROM subscriptions
    WHERE tenant_id = r.tenant_id AND live = r.live AND subscription_id = r.subscription_id;
    SELECT * INTO c FROM payment_methods WHERE tenant_id = r.tenant_id AND live = r.live
        AND payment_method_id = COALESCE((b->>'payment_method_id')::uuid, s.payment_method_id);
    SELECT * INTO m FROM mandates WHERE tenant_id = r.tenant_id AND live = r.live
        AND mandate_id = COALESCE((b->>'mandate_id')::uuid, s.mandate_id) AND payment_method_id = c.payment_method_id;
    made := (SELECT jsonb_agg(jsonb_build_object('state', o.state, 'at', COALESCE(o.clock_at, o.created_at),
                    'payment_method_id', o.payment_method_id, 'code', o.code, 'advice', o.advice, 'network_code', o.network_code)
                    ORDER BY t.try)
             FROM rebill_tries t
             JOIN operations o ON o.tenant_id = t.tenant_id AND o.live = t.live AND o.operation_id = t.operation_id
             WHERE t.tenant_id = r.tenant_id AND t.live = r.live AND t.invoice_id = r.invoice_id);
    RETURN jsonb_build_object(
        'invoice_id', r.invoice_id, 'sequence', r.sequence, 'state', r.state, 'next_at', r.next_at,
        'psp_account_id', r.psp_account_id, 'test_clock_id', r.test_clock_id, 'dunning_version', r.dunning_version,
        'held_out', r.held_out, 'plan', dunning_plan_of_{{v}}(s, r), 'final_at', r.final_at,
        'situation', jsonb_build_object(
            'now', at_, 'invoice_id', r.invoice_id, 'time_zone', s.time_zone, 'invoice_status', i.status,
            'subscription_status', s.status, 'payment_locked', i.payment_locked, 'due_minor', i.due_minor - i.credited_minor,
            'payment_minor', (SELECT y.amount_minor FROM payment_intents y
                              WHERE y.tenant_id = r.tenant_id AND y.live = r.live AND y.payment_id = i.payment_id),
            'tries', COALESCE(made, '[]'), 'backup', b, 'first_failed_at', r.first_failed_at,
            'cap', CASE WHEN c.payment_method_id IS NOT NULL THEN card_refusal_{{v}}(c, COALESCE(caps->c.brand, caps->'*'), i.payment_id,
                        i.due_minor - i.credited_minor, i.currency, COALESCE(m.activated_at, '-infinity'), at_) END,
            'payment_method_id', c.payment_method_id, 'method_active', COALESCE(c.status = 'active', false),
            'mandate_status', m.status, 'funding', COALESCE(c.funding, 'unknown'),
            'last_success_at', (SELECT max(COALESCE(o.clock_at, o.created_at)) FROM operations o
                JOIN payment_methods k ON k.tenant_id = o.tenant_id AND k.live = o.live AND k.payment_method_id = o.payment_method_id
                WHERE k.tenant_id = c.tenant_id AND k.live = c.live AND k.fingerprint = c.fingerprint
                  AND o.kind IN ('authorize', 'purchase') AND o.state = 'succeeded'),
            'backups', (SELECT COALESCE(jsonb_agg(jsonb_build_object('payment_method_id', x.payment_method_id,
                            'mandate_id', x.mandate_id, 'psp_account_id', x.psp_account_id) ORDER BY x.created_at, x.mandate_id), '[]')
                FROM mandates x
                JOIN payment_methods k ON k.tenant_id = x.tenant_id AND k.live = x.live AND k.payment_method_id = x.payment_method_id
                WHERE x.tenant_id = r.tenant_id AND x.live = r.live AND x.customer_id = i.customer_id AND x.status = 'active'
                  AND x.backup AND k.status = 'active' AND k.fingerprint IS DISTINCT FROM c.fingerprint
                  AND card_refusal_{{v}}(k, COALESCE(caps->k.brand, caps->'*'), i.payment_id, i.due_minor - i.credited_minor,
                        i.currency, x.activated_at, at_) IS NULL
                  AND NOT EXISTS (SELECT FROM jsonb_array_elements(made) AS t
                                  WHERE t->>'payment_method_id' = x.payment_method_id::text))));
END $$;

-- Store p->'decision' of p->>'invoice_id', unless the rebill moved on since p->>'sequence' was read (or somebody else holds its lease).
-- p: first_failed_at, final_at, dunning_plan_id, dunning_version, held_out; notices: [{"kind", "dedupe", "due_at"}]; failed: the customer's
-- payment failed, so an active subscription is past due; block: {"until", "code"} when the PSP refused the account itself.
-- Returns {"stored", "state"}.
CREATE OR REPLACE FUNCTION rebill_decide_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    at_ timestamptz := (p->>'at')::timestamptz;
    d jsonb := jsonb_strip_nulls(p->'decision');
    act text := p->'decision'->>'action';
    s subscriptions;
    i invoices;
    r rebills;
    before text;
    n jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT x.* INTO s FROM subscriptions x JOIN rebills y USING (tenant_id, live, subscription_id)
    WHERE y.tenant_id = tenant AND y.live = is_live AND y.invoice_id = (p->>'invoice_id')::uuid FOR NO KEY UPDATE OF x;
    SELECT * INTO i FROM invoices
    WHERE tenant_id = tenant AND live = is_live AND invoice_id = (p->>'invoice_id')::uuid FOR NO KEY UPDATE;
    SELECT * INTO r FROM rebills
    WHERE tenant_id = tenant AND live = is_live AND invoice_id = (p->>'invoice_id')::uuid FOR UPDATE;
    IF NOT COALESCE(r.sequence = (p->>'sequence')::integer AND (r.state IN ('decide', 'waiting')
           OR (r.state = 'claimed' AND r.lease_token = (p->>'lease_token')::uuid)), false) THEN
        RETURN jsonb_build_object('stored', false, 'state', r.state);
    END IF;
    IF i.payment_locked AND act IN ('retry_at', 'other_method', 'final') THEN
        UPDATE rebills SET state = 'waiting', next_at = at_ + interval '10 min', lease_token = NULL, sequence = sequence + 1,
            updated_at = at_
        WHERE tenant_id = tenant AND live = is_live AND invoice_id = r.invoice_id;
        RETURN jsonb_build_object('stored', false, 'state', 'waiting');
    END IF;
    before := r.last_decision->>'reason';
    UPDATE rebills SET
        state = CASE act WHEN 'retry_at' THEN 'due' WHEN 'other_method' THEN 'due' WHEN 'stop' THEN 'stopped'
                         WHEN 'final' THEN 'exhausted' ELSE 'waiting' END,
        next_at = CASE WHEN act NOT IN ('stop', 'final') THEN (d->>'at')::timestamptz END,
        psp_account_id = CASE WHEN d->'backup' IS DISTINCT FROM r.last_decision->'backup'
                              THEN (d->'backup'->>'psp_account_id')::uuid ELSE psp_account_id END,
        lease_token = NULL, last_decision = d, stopped_because = CASE act WHEN 'stop' THEN d->>'reason' END,
        first_failed_at = COALESCE(first_failed_at, (p->>'first_failed_at')::timestamptz),
        final_at = COALESCE((p->>'final_at')::timestamptz, final_at),
        dunning_plan_id = CASE dunning_version WHEN 0 THEN (p->>'dunning_plan_id')::uuid ELSE dunning_plan_id END,
        held_out = CASE dunning_version WHEN 0 THEN (p->>'held_out')::boolean ELSE held_out END,
        dunning_version = CASE dunning_version WHEN 0 THEN (p->>'dunning_version')::integer ELSE dunning_version END,
        sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = tenant AND live = is_live AND invoice_id = r.invoice_id RETURNING * INTO r;
    -- Waiting for the same thing again is no news.
    IF act <> 'wait' OR before IS DISTINCT FROM d->>'reason' THEN
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'decided ' || r.invoice_id || ' ' || r.sequence), 'rebill.decided', 'rebill',
            r.invoice_id, r.sequence, i.customer_id, jsonb_strip_nulls(jsonb_build_object('subscription_id', s.subscription_id,
            'state', r.state, 'next_at', r.next_at, 'tries', r.tries, 'decision', d)));
    END IF;
    IF act IN ('stop', 'final') THEN
        UPDATE notices SET state = 'dropped', due_at = NULL, error = 'rebill_' || r.state, updated_at = at_
        WHERE tenant_id = tenant AND live = is_live AND invoice_id = r.invoice_id AND state = 'queued'
          AND kind IN ('reminder', 'payment_failed', 'action_needed');
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'ended ' || r.invoice_id || ' ' || r.sequence),
            CASE act WHEN 'stop' THEN 'rebill.stopped' ELSE 'rebill.exhausted' END, 'rebill', r.invoice_id, r.sequence, i.customer_id,
            jsonb_strip_nulls(jsonb_build_object('subscription_id', s.subscription_id, 'reason', d->>'reason', 'code', d->>'code',
                'final_action', d->>'final_action')));
    ELSE
        FOR n IN SELECT * FROM jsonb_array_elements(COALESCE(p->'notices', '[]')) LOOP
            PERFORM notice_queue_{{v}}(p, n->>'kind', i.customer_id, s.subscription_id, i.invoice_id, n->>'dedupe',
                                       (n->>'due_at')::timestamptz, r.test_clock_id);
        END LOOP;
    END IF;
    IF act = 'final' THEN
        UPDATE invoices SET status = 'uncollectible', closed_at = at_, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = tenant AND live = is_live AND invoice_id = i.invoice_id RETURNING * INTO i;
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'uncollectible ' || i.invoice_id), 'invoice.marked_uncollectible', 'invoice',
            i.invoice_id, i.sequence, i.customer_id, jsonb_build_object('subscription_id', s.subscription_id, 'status', i.status,
            'amount_minor', i.due_minor, 'currency', i.currency, 'number', i.number));
        PERFORM rebill_final_{{v}}(p, s, d->>'final_action', at_);
    ELSIF (p->>'failed')::boolean AND s.status = 'active' THEN
        UPDATE subscriptions SET status = 'past_due', sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = tenant AND live = is_live AND subscription_id = s.subscription_id RETURNING * INTO s;
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, s.subscription_id || ' ' || s.sequence), 'subscription.past_due',
            'subscription', s.subscription_id, s.sequence, s.customer_id,
            jsonb_build_object('status_before', 'active', 'status', s.status, 'invoice_id', i.invoice_id));
    END IF;
    IF p->'block' IS NOT NULL AND p->'block' <> 'null' AND p->'block'->>'psp_account_id' IS NOT NULL THEN
        INSERT INTO rebill_pace AS g (tenant_id, live, psp_account_id, tokens, filled_at, blocked_until, blocked_because)
        VALUES (tenant, is_live, (p->'block'->>'psp_account_id')::uuid, 0, moment, (p->'block'->>'until')::timestamptz, d->>'code')
        ON CONFLICT (tenant_id, live, psp_account_id) DO UPDATE
            SET blocked_until = excluded.blocked_until, blocked_because = excluded.blocked_because
            WHERE g.blocked_until IS NULL OR g.blocked_until <= moment;
        IF FOUND THEN
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'blocked ' || (p->'block'->>'psp_account_id') || r.invoice_id),
                'rebill.account_blocked', 'rebill', r.invoice_id, r.sequence, i.customer_id,
                jsonb_build_object('psp_account_id', p->'block'->>'psp_account_id', 'code', d->>'code',
                                   'until', p->'block'->>'until'));
        END IF;
    END IF;
    RETURN jsonb_build_object('stored', true, 'state', r.state);
END $$;

-- The last word of a plan about a subscription that was not paid for.
CREATE OR REPLACE FUNCTION rebill_final_{{v}}(p jsonb, s subscriptions, act text, at_ timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before text := s.status;
BEGIN
    IF s.ended_at IS NOT NULL THEN
        RETURN;
    ELSIF act = 'cancel' THEN
        PERFORM subscription_end_{{v}}(p, s, 'canceled', at_, 'payment_failed');
        RETURN;
    ELSIF act = 'unpaid' AND s.status IN ('trialing', 'active', 'past_due') THEN
        UPDATE subscriptions SET status = 'unpaid', sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
    ELSIF act = 'pause' AND s.status IN ('trialing', 'active', 'past_due') THEN
        UPDATE subscriptions SET status = 'paused', paused_at = at_, resume_at = NULL, status_before_pause = s.status,
            sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
    ELSE
        RETURN;
    END IF;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, s.subscription_id || ' ' || s.sequence),
        'subscription.' || s.status, 'subscription', s.subscription_id, s.sequence, s.customer_id,
        jsonb_build_object('status_before', before, 'status', s.status, 'reason', 'payment_failed'));
END $$;

-- Lock what an action of a person is about, in the order of locks; refuses what does not exist.
CREATE OR REPLACE FUNCTION rebill_lock_{{v}}(p jsonb, OUT s subscriptions, OUT i invoices, OUT r rebills) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT x.* INTO s FROM subscriptions x JOIN invoices y USING (tenant_id, live, subscription_id)
    WHERE y.tenant_id = (p->>'tenant_id')::uuid AND y.live = (p->>'live')::boolean AND y.invoice_id = (p->>'invoice_id')::uuid
    FOR NO KEY UPDATE OF x;
    SELECT * INTO i FROM invoices WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
        AND invoice_id = (p->>'invoice_id')::uuid FOR NO KEY UPDATE;
    SELECT * INTO r FROM rebills WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
        AND invoice_id = (p->>'invoice_id')::uuid FOR UPDATE;
END $$;

-- The moment for what hangs on a rebill's or invoice's test clock.
CREATE OR REPLACE FUNCTION clock_moment_{{v}}(p jsonb, clock uuid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT now_at FROM test_clocks WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
                     AND test_clock_id = clock), (p->>'now')::timestamptz);
$$;

-- Charge now instead of when the plan says; the caps hold, and nothing is charged while an outcome is open.
CREATE OR REPLACE FUNCTION rebill_retry_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    x record;
    i invoices;
    r rebills;
    at_ timestamptz;
    found jsonb;
    cap jsonb;
BEGIN
    SELECT * INTO x FROM rebill_lock_{{v}}(p);
    i := x.i;
    r := x.r;
    IF r.invoice_id IS NULL THEN
        PERFORM refuse_{{v}}('rebill_not_found');
    ELSIF i.payment_locked THEN
        PERFORM refuse_{{v}}('payment_in_progress', jsonb_build_object('invoice_status', i.status));
    ELSIF r.state NOT IN ('due', 'decide', 'waiting') OR i.status <> 'open' THEN
        PERFORM refuse_{{v}}('rebill_not_open', jsonb_build_object('state', r.state, 'invoice_status', i.status));
    END IF;
    at_ := clock_moment_{{v}}(p, r.test_clock_id);
    found := rebill_situation_{{v}}(r, p->'caps', at_)->'situation';
    cap := NULLIF(found->'cap', 'null');
    IF NOT (found->>'method_active')::boolean THEN
        PERFORM refuse_{{v}}('payment_method_missing');
    ELSIF found->>'mandate_status' IS DISTINCT FROM 'active' THEN
        PERFORM refuse_{{v}}('mandate_not_active', jsonb_build_object('mandate_status', found->'mandate_status'));
    ELSIF cap IS NOT NULL THEN
        PERFORM refuse_{{v}}(cap->>'code', cap - 'code');
    END IF;
    UPDATE rebills SET state = 'due', next_at = at_, lease_token = NULL, sequence = sequence + 1, updated_at = at_,
        last_decision = jsonb_strip_nulls(jsonb_build_object('action', 'retry_at', 'reason', 'asked_for', 'at', at_, 'decided_at', at_,
            'backup', last_decision->'backup'))
    WHERE tenant_id = r.tenant_id AND live = r.live AND invoice_id = r.invoice_id RETURNING * INTO r;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'asked ' || r.invoice_id || ' ' || r.sequence),
        'rebill.decided', 'rebill', r.invoice_id, r.sequence, i.customer_id, jsonb_build_object('subscription_id',
        r.subscription_id, 'state', r.state, 'next_at', at_, 'tries', r.tries, 'decision', r.last_decision));
    RETURN 'true';
END $$;

-- Charge this invoice no more by itself. A charge that is under way resolves.
CREATE OR REPLACE FUNCTION rebill_stop_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    x record;
    i invoices;
    r rebills;
    at_ timestamptz;
BEGIN
    SELECT * INTO x FROM rebill_lock_{{v}}(p);
    i := x.i;
    r := x.r;
    IF r.invoice_id IS NULL THEN
        PERFORM refuse_{{v}}('rebill_not_found');
    ELSIF r.state NOT IN ('due', 'claimed', 'decide', 'waiting') THEN
        PERFORM refuse_{{v}}('rebill_not_open', jsonb_build_object('state', r.state, 'invoice_status', i.status));
    END IF;
    at_ := clock_moment_{{v}}(p, r.test_clock_id);
    UPDATE rebills SET state = 'stopped', next_at = NULL, lease_token = NULL, stopped_because = p->>'reason', sequence = sequence + 1,
        updated_at = at_
    WHERE tenant_id = r.tenant_id AND live = r.live AND invoice_id = r.invoice_id RETURNING * INTO r;
    UPDATE notices SET state = 'dropped', due_at = NULL, error = 'rebill_stopped', updated_at = at_
    WHERE tenant_id = r.tenant_id AND live = r.live AND invoice_id = r.invoice_id AND state = 'queued'
      AND kind IN ('reminder', 'payment_failed', 'action_needed', 'pre_debit');
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'stopped ' || r.invoice_id || ' ' || r.sequence),
        'rebill.stopped', 'rebill', r.invoice_id, r.sequence, i.customer_id,
        jsonb_build_object('subscription_id', r.subscription_id, 'reason', 'asked_for'));
    RETURN 'true';
END $$;

-- Collect an invoice of a missed period after all.
CREATE OR REPLACE FUNCTION rebill_release_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    x record;
    s subscriptions;
    i invoices;
    r rebills;
    at_ timestamptz;
BEGIN
    SELECT * INTO x FROM rebill_lock_{{v}}(p);
    s := x.s;
    i := x.i;
    r := x.r;
    IF i.invoice_id IS NULL OR s.subscription_id IS NULL THEN
        PERFORM refuse_{{v}}('rebill_not_found');
    ELSIF i.collection <> 'held' OR i.status <> 'open' OR r.invoice_id IS NOT NULL OR s.ended_at IS NOT NULL THEN
        PERFORM refuse_{{v}}('invoice_not_held', jsonb_build_object('invoice_status', i.status));
    END IF;
    at_ := clock_moment_{{v}}(p, i.test_clock_id);
    UPDATE invoices SET collection = 'automatic', sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id;
    INSERT INTO rebills (tenant_id, live, invoice_id, subscription_id, psp_account_id, state, next_at, test_clock_id, last_decision,
                         created_at, updated_at)
    VALUES (i.tenant_id, i.live, i.invoice_id, s.subscription_id, s.psp_account_id,
            CASE WHEN s.mandate_id IS NULL THEN 'decide' ELSE 'due' END, at_, i.test_clock_id,
            jsonb_build_object('action', 'retry_at', 'reason', 'released', 'at', at_, 'decided_at', at_), at_, at_)
    RETURNING * INTO r;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'released ' || r.invoice_id), 'rebill.released', 'rebill',
        r.invoice_id, r.sequence, i.customer_id, jsonb_build_object('subscription_id', s.subscription_id,
        'state', r.state, 'next_at', at_, 'decision', r.last_decision));
    RETURN 'true';
END $$;

-- A subscription has another payment method or mandate: what waited for the customer is decided anew. The caller holds the subscription.
CREATE OR REPLACE FUNCTION rebills_wake_{{v}}(p jsonb, s subscriptions, at_ timestamptz) RETURNS void LANGUAGE sql AS $$
    UPDATE rebills SET state = 'decide', next_at = at_, sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id AND state = 'waiting';
$$;

-- The same, of p->>'subscription_id' at p->>'at'.
CREATE OR REPLACE FUNCTION rebills_wake_of_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    s subscriptions;
BEGIN
    SELECT * INTO STRICT s FROM subscriptions WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
        AND subscription_id = (p->>'subscription_id')::uuid;
    PERFORM rebills_wake_{{v}}(p, s, (p->>'at')::timestamptz);
    RETURN 'true';
END $$;
