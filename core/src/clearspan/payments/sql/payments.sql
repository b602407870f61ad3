-- The money path: each function is one round trip and one transaction.
--
--   payment_open      create an intent, optionally with its charge reserved
--   operation_open    reserve a charge, capture, void or refund on an intent that exists
--   operation_settle  store what was observed, derive the status, keep the answer
--   payment_close     cancel or expire an intent that has no live charge
--
-- Each takes one JSON document and returns one. A refusal is an exception of SQLSTATE CS001 whose message is the error code
-- and whose detail is a JSON object; it rolls everything back, the idempotency key too. Names end in the hash of this text,
-- so that two releases can run side by side (platform/sqlbundle.py).
--
-- Lock order: idempotency key, intent, operation.

CREATE OR REPLACE FUNCTION refuse_{{v}}(code text, detail jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'CS001', MESSAGE = code, DETAIL = detail::text;
END $$;

-- Name the tenant and the mode of this transaction, and refuse an API key that was revoked, or a person's access token whose
-- session was ended, since it was cached.
CREATE OR REPLACE FUNCTION enter_{{v}}(p jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF p->>'actor_type' = 'api_key' AND NOT EXISTS (
        SELECT FROM api_keys
        WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND key_id = (p->>'key_id')::uuid
          AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > (p->>'now')::timestamptz))
    THEN
        PERFORM refuse_{{v}}('api_key_invalid');
    END IF;
    IF p->>'session_id' IS NOT NULL AND NOT operator_session_open_{{v}}(p) THEN
        PERFORM refuse_{{v}}('access_token_invalid');
    END IF;
END $$;

-- Claim the idempotency key. Returns null when the caller owns it now and starts afresh; otherwise what to do instead:
-- {"replay": {status, body}} or {"resume": {payment_id, operation_id}} after a crash whose lease ran out.
CREATE OR REPLACE FUNCTION idempotency_claim_{{v}}(p jsonb, payment uuid, operation uuid) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    k jsonb := p->'idempotency';
    held idempotency_keys;
BEGIN
    IF k IS NULL OR k = 'null' THEN
        RETURN NULL;
    END IF;
    INSERT INTO idempotency_keys (tenant_id, live, key_hash, request_hash, state, lease_token, lease_until, payment_id,
                                  operation_id, created_at)
    VALUES ((p->>'tenant_id')::uuid, (p->>'live')::boolean, decode(k->>'key_hash', 'hex'), decode(k->>'request_hash', 'hex'),
            'in_flight', (k->>'lease_token')::uuid, (k->>'lease_until')::timestamptz, payment, operation,
            (p->>'now')::timestamptz)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO STRICT held FROM idempotency_keys
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND key_hash = decode(k->>'key_hash', 'hex')
    FOR UPDATE;
    IF held.request_hash <> decode(k->>'request_hash', 'hex') THEN
        PERFORM refuse_{{v}}('idempotency_key_reused');
    ELSIF held.state = 'expired' THEN
        PERFORM refuse_{{v}}('idempotency_key_expired');
    ELSIF held.state = 'done' THEN
        RETURN jsonb_build_object('replay', jsonb_build_object(
            'status', held.status_code, 'body', convert_from(held.body, 'UTF8')));
    ELSIF held.lease_until > (p->>'now')::timestamptz THEN
        PERFORM refuse_{{v}}('idempotency_key_in_flight', jsonb_build_object('retry_after_s',
            ceil(greatest(1, least(5, extract(epoch FROM held.lease_until - (p->>'now')::timestamptz))))::integer));
    END IF;
    UPDATE idempotency_keys SET lease_token = (k->>'lease_token')::uuid, lease_until = (k->>'lease_until')::timestamptz
    WHERE tenant_id = held.tenant_id AND live = held.live AND key_hash = held.key_hash;
    RETURN jsonb_build_object('resume', jsonb_build_object(
        'payment_id', held.payment_id, 'operation_id', held.operation_id));
END $$;

-- Keep an answer under its key; the first one stays. Returns whether this one is kept.
CREATE OR REPLACE FUNCTION idempotency_keep_{{v}}(tenant uuid, is_live boolean, hash bytea, status integer, answer text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE idempotency_keys SET state = 'done', status_code = status, body = convert_to(answer, 'UTF8')
    WHERE tenant_id = tenant AND live = is_live AND key_hash = hash AND state = 'in_flight';
    RETURN FOUND;
END $$;

-- Keep an answer (p->'answer': status, body) under p->>'key_hash' unless one is kept already; returns the one that is kept.
CREATE OR REPLACE FUNCTION idempotency_finish_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    PERFORM idempotency_keep_{{v}}((p->>'tenant_id')::uuid, (p->>'live')::boolean, decode(p->>'key_hash', 'hex'),
                                   (p->'answer'->>'status')::integer, p->'answer'->>'body');
    RETURN (SELECT jsonb_build_object('status', status_code, 'body', convert_from(body, 'UTF8')) FROM idempotency_keys
            WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
              AND key_hash = decode(p->>'key_hash', 'hex') AND state = 'done');
END $$;

-- The answer kept for this very request, or null.
CREATE OR REPLACE FUNCTION idempotency_peek_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT jsonb_build_object('status', status_code, 'body', convert_from(body, 'UTF8')) FROM idempotency_keys
            WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND state = 'done'
              AND key_hash = decode(p->>'key_hash', 'hex') AND request_hash = decode(p->>'request_hash', 'hex'));
END $$;

-- The pure function of intent, operations and disputes (payments.models.derive is the same in Python).
CREATE OR REPLACE FUNCTION payment_derive_{{v}}(p payment_intents) RETURNS payment_intents LANGUAGE plpgsql STABLE AS $$
DECLARE
    charge operations;
    s record;
    d record;
BEGIN
    -- The charge that counts: the live-or-succeeded one, else the newest.
    SELECT * INTO charge FROM operations o
    WHERE o.tenant_id = p.tenant_id AND o.live = p.live AND o.payment_id = p.payment_id AND o.kind IN ('authorize', 'purchase')
    ORDER BY (o.state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review', 'succeeded')) DESC,
             o.created_at DESC, o.operation_id DESC
    LIMIT 1;
    -- What was done to that charge; a void or refund of any other charge gives a surplus back. What took effect although it had been
    -- given up counts as well, as far as there is room: the money is gone, whatever we believed.
    SELECT COALESCE(sum(amount_minor) FILTER (WHERE kind = 'capture' AND state IN ('succeeded', 'surplus')), 0) AS captured,
           COALESCE(bool_or(final) FILTER (WHERE kind = 'capture' AND state IN ('succeeded', 'surplus')), false) AS final,
           COALESCE(sum(amount_minor) FILTER (WHERE kind = 'capture' AND state IN
               ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')), 0) AS capture_pending,
           COALESCE(sum(amount_minor) FILTER (WHERE kind = 'void' AND state IN ('succeeded', 'surplus') AND mine), 0) AS voided,
           COALESCE(sum(amount_minor) FILTER (WHERE kind = 'refund' AND state IN ('succeeded', 'surplus') AND mine), 0) AS refunded,
           COALESCE(sum(amount_minor) FILTER (WHERE kind = 'refund' AND mine AND state IN
               ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')), 0) AS refund_pending,
           COALESCE(sum(amount_minor) FILTER (WHERE kind IN ('authorize', 'purchase') AND state = 'surplus'), 0)
             - COALESCE(sum(amount_minor) FILTER (WHERE kind IN ('void', 'refund') AND state IN ('succeeded', 'surplus')
                                                  AND NOT mine), 0) AS surplus
      INTO s
      FROM (SELECT o.*, o.parent_id IS NOT DISTINCT FROM charge.operation_id AND charge.state IS DISTINCT FROM 'surplus' AS mine
            FROM operations o
            WHERE o.tenant_id = p.tenant_id AND o.live = p.live AND o.payment_id = p.payment_id) AS o;
    SELECT COALESCE(sum(amount_minor) FILTER (WHERE status IN
               ('needs_response', 'under_review', 'lost', 'accepted', 'expired', 'pre_arbitration')), 0) AS disputed,
           COALESCE(sum(amount_minor) FILTER (WHERE status = 'returned'), 0) AS returned
      INTO d
      FROM disputes x WHERE x.tenant_id = p.tenant_id AND x.live = p.live AND x.payment_id = p.payment_id;

    p.charge_operation_id := charge.operation_id;
    p.psp_account_id := COALESCE(charge.psp_account_id, p.psp_account_id);
    p.surplus_minor := greatest(s.surplus, 0);
    p.next_action := NULL;
    p.last_error := NULL;
    p.outcome := NULL;
    p.authorized_minor := CASE WHEN charge.state = 'succeeded' THEN charge.amount_minor ELSE 0 END;
    p.captured_minor := CASE WHEN charge.state = 'succeeded' AND charge.kind = 'purchase' THEN charge.amount_minor
                             ELSE least(s.captured, p.authorized_minor) END;
    p.voided_minor := CASE WHEN s.final THEN p.authorized_minor - p.captured_minor
                           ELSE least(s.voided, p.authorized_minor - p.captured_minor) END;
    p.capture_pending_minor := least(s.capture_pending, p.authorized_minor - p.captured_minor - p.voided_minor);
    p.refunded_minor := least(s.refunded, p.captured_minor);
    p.refund_pending_minor := least(s.refund_pending, p.captured_minor - p.refunded_minor);
    p.disputed_minor := d.disputed;
    -- A bank may give back what was refunded already; no more than what was captured can be gone.
    p.returned_minor := least(d.returned, p.captured_minor - p.refunded_minor - p.refund_pending_minor);

    p.status := CASE
        WHEN charge.state = 'succeeded' THEN CASE
            WHEN p.captured_minor >= p.authorized_minor THEN 'succeeded'
            WHEN p.captured_minor > 0 THEN 'partially_captured'
            WHEN p.voided_minor > 0 THEN 'canceled'
            ELSE 'requires_capture' END
        WHEN charge.state = 'requires_action' THEN 'requires_action'
        WHEN charge.state IN ('prepared', 'submitted', 'pending', 'unknown', 'needs_review') THEN 'processing'
        WHEN p.canceled_at IS NOT NULL OR p.cancel_requested_at IS NOT NULL THEN 'canceled'
        WHEN p.expired_at IS NOT NULL THEN 'expired'
        WHEN charge.state IN ('declined', 'expired', 'surplus') OR p.payment_method_id IS NULL THEN 'requires_payment_method'
        ELSE 'requires_confirmation' END;
    IF charge.state IN ('unknown', 'needs_review') THEN
        p.outcome := 'unknown';
    ELSIF charge.state = 'pending' THEN
        p.outcome := 'pending';
    ELSIF charge.state = 'requires_action' THEN
        p.next_action := charge.next_action;
    ELSIF charge.state IN ('declined', 'expired', 'not_charged', 'not_sent') THEN
        p.last_error := jsonb_strip_nulls(jsonb_build_object('code', COALESCE(charge.code, charge.state), 'raw_code',
            charge.raw_code, 'advice', charge.advice, 'network_code', charge.network_code, 'message', charge.message));
    END IF;
    RETURN p;
END $$;

-- Whether a charge must be given back: one that arrived although it had been given up (unless surplus is held for a human), and one
-- whose cancellation was asked for while its outcome was open. Not while a try is under way; payments.recovery.unwinding names it.
CREATE OR REPLACE FUNCTION payment_unwinds_{{v}}(p payment_intents, with_surplus boolean) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT (with_surplus AND p.surplus_minor > 0)
       AND NOT (p.cancel_requested_at IS NOT NULL AND (p.status = 'requires_action' OR (p.status IN
           ('requires_capture', 'succeeded', 'partially_captured') AND p.refunded_minor + p.refund_pending_minor + p.returned_minor
            < p.authorized_minor - p.voided_minor))) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM operations o WHERE o.tenant_id = p.tenant_id AND o.live = p.live AND o.payment_id = p.payment_id
        AND ((o.kind IN ('void', 'refund') AND o.routing->>'rule' = 'unwind')
             -- What a capture takes, and releases when it is the final one, is not known before it is settled.
             OR (o.kind = 'capture' AND NOT (with_surplus AND p.surplus_minor > 0)))
        AND o.state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review'));
END $$;

-- Write the derived part of an intent back, with its sequence grown by one.
CREATE OR REPLACE FUNCTION payment_store_{{v}}(p payment_intents, moment timestamptz) RETURNS payment_intents LANGUAGE plpgsql AS $$
BEGIN
    UPDATE payment_intents SET
        sequence = p.sequence + 1, updated_at = moment, status = p.status, outcome = p.outcome,
        charge_operation_id = p.charge_operation_id, psp_account_id = p.psp_account_id,
        payment_method_id = p.payment_method_id, return_url = p.return_url, next_action = p.next_action,
        last_error = p.last_error,
        authorized_minor = p.authorized_minor, captured_minor = p.captured_minor,
        capture_pending_minor = p.capture_pending_minor, voided_minor = p.voided_minor, refunded_minor = p.refunded_minor,
        refund_pending_minor = p.refund_pending_minor, surplus_minor = p.surplus_minor,
        canceled_at = p.canceled_at, cancellation_reason = p.cancellation_reason, expired_at = p.expired_at,
        disputed_minor = p.disputed_minor, returned_minor = p.returned_minor, cancel_requested_at = p.cancel_requested_at,
        cancel_request_reason = p.cancel_request_reason, unwind_at = p.unwind_at
    WHERE tenant_id = p.tenant_id AND live = p.live AND payment_id = p.payment_id
    RETURNING * INTO p;
    RETURN p;
END $$;

-- One journal row. data holds ids, codes and amounts only.
CREATE OR REPLACE FUNCTION journal_write_{{v}}(p jsonb, event uuid, event_type text, subject text, subject_id uuid,
                                               subject_sequence integer, customer uuid, told jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, customer_id, actor_type, actor_id,
                         request_id, data, at)
    VALUES ((p->>'tenant_id')::uuid, (p->>'live')::boolean, event, event_type, subject, subject_id, subject_sequence, customer,
            p->>'actor_type', p->>'actor_id', p->>'request_id', told, (p->>'now')::timestamptz);
END $$;

-- Insert the operation of p->'operation', submitted, under a lease: the caller sends after this has committed.
CREATE OR REPLACE FUNCTION operation_insert_{{v}}(p jsonb, payment payment_intents, kind text, amount bigint, parent uuid)
RETURNS operations LANGUAGE sql AS $$
    INSERT INTO operations (tenant_id, live, operation_id, payment_id, kind, state, amount_minor, currency, psp_account_id,
        payment_method_id, parent_id, psp_key, final, reason, reference, metadata, routing, lease_token, lease_until, sweep_at,
        created_at, sent_at, updated_at, merchant_initiated, mandate_id, clock_at, credential)
    SELECT payment.tenant_id, payment.live, (o->>'operation_id')::uuid, payment.payment_id, kind, 'submitted', amount,
        payment.currency, (o->>'psp_account_id')::uuid, payment.payment_method_id, parent, o->>'psp_key',
        COALESCE((o->>'final')::boolean, false), o->>'reason', o->>'reference', COALESCE(o->'metadata', '{}'),
        COALESCE(o->'routing', '{}'), (o->>'lease_token')::uuid, (o->>'lease_until')::timestamptz,
        (o->>'lease_until')::timestamptz, (p->>'now')::timestamptz, (p->>'now')::timestamptz, (p->>'now')::timestamptz,
        parent IS NULL AND COALESCE((o->>'merchant_initiated')::boolean, NOT payment.customer_present),
        (o->>'mandate_id')::uuid, (o->>'clock_at')::timestamptz, o->'credential'
    FROM (SELECT p->'operation' AS o) AS given
    RETURNING *;
$$;

-- What the caller needs to send: the account's settings and the card's token.
CREATE OR REPLACE FUNCTION sending_{{v}}(o operations) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    account psp_accounts;
    method jsonb;
BEGIN
    SELECT * INTO account FROM psp_accounts a
    WHERE a.tenant_id = o.tenant_id AND a.live = o.live AND a.psp_account_id = o.psp_account_id;
    SELECT jsonb_build_object('kind', m.kind, 'vault', m.vault, 'vault_token', m.vault_token,
               'network_transaction_id', m.network_transaction_id, 'psp_token', m.psp_token, 'psp_method', m.psp_method,
               'stored_token', (SELECT k.token FROM payment_method_tokens k WHERE k.tenant_id = o.tenant_id AND k.live = o.live
                                AND k.payment_method_id = m.payment_method_id AND k.psp_account_id = o.psp_account_id))
      INTO method FROM payment_methods m
     WHERE m.tenant_id = o.tenant_id AND m.live = o.live AND m.payment_method_id = o.payment_method_id;
    RETURN jsonb_build_object('account_id', account.psp_account_id, 'psp', account.psp, 'account', account.name,
        'config_version', account.config_version, 'config', encode(account.config, 'base64'), 'method', method,
        'webhook_token', account.webhook_token,
        'credential', o.credential,
        'charge_ref', (SELECT c.psp_ref FROM operations c WHERE c.tenant_id = o.tenant_id AND c.live = o.live
                       AND c.operation_id = o.parent_id));
END $$;

CREATE OR REPLACE FUNCTION operations_of_{{v}}(p payment_intents) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT COALESCE(jsonb_agg(to_jsonb(o) ORDER BY o.created_at, o.operation_id), '[]') FROM operations o
    WHERE o.tenant_id = p.tenant_id AND o.live = p.live AND o.payment_id = p.payment_id;
$$;

CREATE OR REPLACE FUNCTION check_account_{{v}}(tenant uuid, is_live boolean, account uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM psp_accounts WHERE tenant_id = tenant AND live = is_live AND psp_account_id = account
                   AND status = 'enabled') THEN
        PERFORM refuse_{{v}}('psp_account_unavailable');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION check_method_{{v}}(tenant uuid, is_live boolean, method uuid, customer uuid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found payment_methods;
BEGIN
    SELECT * INTO found FROM payment_methods
    WHERE tenant_id = tenant AND live = is_live AND payment_method_id = method;
    IF found.payment_method_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_method_not_found');
    ELSIF found.status <> 'active' THEN
        PERFORM refuse_{{v}}('payment_method_detached');
    ELSIF found.customer_id IS DISTINCT FROM customer AND found.customer_id IS NOT NULL THEN
        PERFORM refuse_{{v}}('payment_method_of_another_customer');
    END IF;
END $$;

-- The account that was chosen must be one that can charge this method; which, is told for a second choice. sources: what its PSP takes.
CREATE OR REPLACE FUNCTION check_source_{{v}}(tenant uuid, is_live boolean, method uuid, account uuid, sources jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found payment_methods;
BEGIN
    SELECT * INTO found FROM payment_methods
    WHERE tenant_id = tenant AND live = is_live AND payment_method_id = method;
    IF NOT sources ? found.kind OR found.psp_account_id <> account THEN
        PERFORM refuse_{{v}}('payment_method_needs_account', jsonb_build_object('source', found.kind,
            'psp_account_id', found.psp_account_id, 'psp_method', found.psp_method));
    END IF;
END $$;

-- A payment may name a mandate of its own customer and method that was not revoked.
CREATE OR REPLACE FUNCTION check_mandate_{{v}}(tenant uuid, is_live boolean, mandate uuid, method uuid, customer uuid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found mandates;
BEGIN
    SELECT * INTO found FROM mandates WHERE tenant_id = tenant AND live = is_live AND mandate_id = mandate;
    IF found.mandate_id IS NULL OR found.customer_id IS DISTINCT FROM customer THEN
        PERFORM refuse_{{v}}('mandate_missing');
    ELSIF found.status = 'revoked' OR found.payment_method_id IS DISTINCT FROM method THEN
        PERFORM refuse_{{v}}('mandate_not_active', jsonb_build_object('mandate_status',
            CASE WHEN found.status = 'revoked' THEN 'revoked' ELSE 'of_another_payment_method' END));
    END IF;
END $$;

-- What the PSP is told about a mandate: whether this is the payment that it begins with (or begins again, after a suspension).
CREATE OR REPLACE FUNCTION credential_{{v}}(d mandates, by_merchant boolean) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('mandate_id', d.mandate_id, 'purpose', d.purpose,
        'first', NOT by_merchant AND d.status IN ('pending', 'suspended'),
        'network_transaction_id', CASE WHEN by_merchant OR d.status = 'active' THEN d.network_transaction_id END);
$$;

-- Whether the merchant may charge a card at a moment: null, or {"code", ...} with why not. payments.caps.refusal says the same in
-- Python. limits is payments.caps.SchemeLimits of the card's scheme; counted are the charges of its fingerprint that were declined or
-- may still be, by whomever; mandate_since is when the mandate became active on which the charge would rest.
CREATE OR REPLACE FUNCTION card_refusal_{{v}}(m payment_methods, limits jsonb, payment uuid, amount bigint, currency_ text,
                                              mandate_since timestamptz, at_ timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
    WITH tried AS MATERIALIZED (
        SELECT COALESCE(x.clock_at, x.created_at) AS at, x.state = 'declined' AS declined, x.payment_id, x.amount_minor, x.currency,
               x.code, x.advice, x.network_code
        FROM payment_methods c
        JOIN operations x ON x.tenant_id = c.tenant_id AND x.live = c.live AND x.payment_method_id = c.payment_method_id
        WHERE c.tenant_id = m.tenant_id AND c.live = m.live AND c.fingerprint = m.fingerprint
          AND x.kind IN ('authorize', 'purchase')
          AND x.state IN ('declined', 'prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')
    ), stopped AS (
        SELECT jsonb_strip_nulls(jsonb_build_object('code', 'card_stopped', 'decline_code', t.code, 'advice', t.advice)) AS why
        FROM tried t
        WHERE t.declined AND (limits->'stop_codes' ? t.code OR (limits->'revoked_codes' ? t.code AND t.at >= mandate_since)
           OR limits->'stop_network_codes' ? t.network_code OR EXISTS (
              SELECT FROM jsonb_array_elements(limits->'stop_advice') AS a
              WHERE a->>'advice' = t.advice
                AND (a->>'window_s' IS NULL OR t.at > at_ - make_interval(secs => (a->>'window_s')::double precision))))
        ORDER BY t.at DESC LIMIT 1
    ), counted AS (
        SELECT r->>'rule' AS rule, make_interval(secs => (r->>'window_s')::double precision) AS span, (r->>'most')::integer AS most,
               make_interval(secs => COALESCE((r->>'min_gap_s')::double precision, 0)) AS gap, n.*
        FROM jsonb_array_elements(limits->'rules') WITH ORDINALITY AS given(r, place)
        CROSS JOIN LATERAL (
            SELECT array_agg(t.at ORDER BY t.at) FILTER (WHERE t.declined) AS declines, count(*) AS tries,
                   max(t.at) FILTER (WHERE NOT t.declined) AS newest_open
            FROM tried t
            WHERE (r->>'window_s' IS NULL OR t.at > at_ - make_interval(secs => (r->>'window_s')::double precision))
              AND (r->>'same' <> 'amount' OR (t.amount_minor = amount AND t.currency = currency_))
              AND (r->>'same' <> 'payment' OR t.payment_id = payment)
              AND (r->>'code' IS NULL OR NOT t.declined OR t.code = r->>'code')) AS n
        WHERE r->>'issuer_country' IS NULL OR r->>'issuer_country' = m.issuer_country
    ), judged AS (
        SELECT rule, greatest(
            CASE WHEN cardinality(declines) >= most THEN COALESCE(declines[cardinality(declines) - most + 1] + span, 'infinity')
                 WHEN tries >= most THEN at_ + interval '900 s' END,
            CASE WHEN gap = interval '0' THEN NULL
                 WHEN declines[cardinality(declines)] > at_ - gap THEN declines[cardinality(declines)] + gap
                 WHEN newest_open > at_ - gap THEN at_ + interval '900 s' END) AS again_at
        FROM counted
    )
    SELECT COALESCE((SELECT why FROM stopped), (
        SELECT jsonb_strip_nulls(jsonb_build_object('code', 'retry_cap_reached', 'rule', rule,
            'again_at', NULLIF(again_at, 'infinity')))
        FROM judged WHERE again_at > at_ ORDER BY again_at DESC LIMIT 1));
$$;

-- A charge is about to be reserved with this method: what the schemes count by card is counted here, under the card's lock, and a
-- merchant-initiated one needs an active mandate. Returns the operation's fields with the mandate, what the PSP is told about it, and
-- the time of the customer's test clock filled in.
--
-- p->'caps': payments.caps.at, by scheme ('*' for all others). p->'operation'->>'clock_at' is a test clock's time.
CREATE OR REPLACE FUNCTION charge_allowed_{{v}}(p jsonb, pay payment_intents) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    o jsonb := p->'operation';
    by_merchant boolean := COALESCE((o->>'merchant_initiated')::boolean, NOT pay.customer_present);
    mandate uuid := COALESCE((o->>'mandate_id')::uuid, pay.mandate_id);
    at_ timestamptz;
    m payment_methods;
    d mandates;
    refused jsonb;
BEGIN
    SELECT * INTO m FROM payment_methods
    WHERE tenant_id = pay.tenant_id AND live = pay.live AND payment_method_id = pay.payment_method_id;
    PERFORM pg_advisory_xact_lock(hashtextextended(m.tenant_id || ' ' || m.live || ' ' || m.fingerprint, 0));
    IF NOT pay.live AND pay.customer_id IS NOT NULL AND o->>'clock_at' IS NULL THEN
        o := o || COALESCE((SELECT jsonb_build_object('clock_at', k.now_at)
            FROM customers c JOIN test_clocks k USING (tenant_id, live, test_clock_id)
            WHERE c.tenant_id = pay.tenant_id AND c.live = pay.live AND c.customer_id = pay.customer_id), '{}');
    END IF;
    at_ := COALESCE((o->>'clock_at')::timestamptz, (p->>'now')::timestamptz);
    IF NOT by_merchant THEN
        IF mandate IS NULL THEN
            RETURN o;
        END IF;
        SELECT * INTO d FROM mandates x
        WHERE x.tenant_id = pay.tenant_id AND x.live = pay.live AND x.mandate_id = mandate AND x.status <> 'revoked'
          AND x.payment_method_id = pay.payment_method_id;
        IF d.mandate_id IS NULL AND pay.invoice_id IS NOT NULL THEN
            RETURN o || '{"mandate_id": null}'; -- the customer pays an invoice by himself, with whatever card
        ELSIF d.mandate_id IS NULL THEN
            PERFORM check_mandate_{{v}}(pay.tenant_id, pay.live, mandate, pay.payment_method_id, pay.customer_id);
        END IF;
        RETURN o || jsonb_build_object('mandate_id', d.mandate_id, 'credential', credential_{{v}}(d, false));
    END IF;
    SELECT * INTO d FROM mandates x
    WHERE x.tenant_id = pay.tenant_id AND x.live = pay.live AND x.payment_method_id = pay.payment_method_id
      AND x.mandate_id = COALESCE(mandate, x.mandate_id)
    ORDER BY (x.status = 'active') DESC, x.created_at DESC LIMIT 1 FOR SHARE;
    IF d.mandate_id IS NULL THEN
        PERFORM refuse_{{v}}('mandate_missing');
    ELSIF d.status <> 'active' THEN
        PERFORM refuse_{{v}}('mandate_not_active', jsonb_build_object('mandate_status', d.status));
    END IF;
    refused := card_refusal_{{v}}(m, COALESCE(p->'caps'->m.brand, p->'caps'->'*'), pay.payment_id, pay.amount_minor, pay.currency,
                                  d.activated_at, at_);
    IF refused IS NOT NULL THEN
        PERFORM refuse_{{v}}(refused->>'code', refused - 'code');
    END IF;
    RETURN o || jsonb_build_object('mandate_id', d.mandate_id, 'merchant_initiated', true, 'credential', credential_{{v}}(d, true));
END $$;

CREATE OR REPLACE FUNCTION payment_open_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := p->'payment';
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    charging boolean := p ? 'operation';
    claim jsonb;
    pay payment_intents;
    op operations;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (given->>'payment_id')::uuid, (p->'operation'->>'operation_id')::uuid);
    IF claim IS NOT NULL THEN
        RETURN claim;
    END IF;
    IF given->>'mandate_id' IS NOT NULL THEN
        PERFORM check_mandate_{{v}}(tenant, is_live, (given->>'mandate_id')::uuid, (given->>'payment_method_id')::uuid,
                                    (given->>'customer_id')::uuid);
    END IF;
    IF given->>'customer_id' IS NOT NULL AND NOT EXISTS (
        SELECT FROM customers WHERE tenant_id = tenant AND live = is_live AND customer_id = (given->>'customer_id')::uuid
        AND deleted_at IS NULL) THEN
        PERFORM refuse_{{v}}('customer_not_found');
    END IF;
    IF given->>'payment_method_id' IS NOT NULL THEN
        PERFORM check_method_{{v}}(tenant, is_live, (given->>'payment_method_id')::uuid, (given->>'customer_id')::uuid);
    END IF;
    IF charging THEN
        PERFORM check_account_{{v}}(tenant, is_live, (p->'operation'->>'psp_account_id')::uuid);
        PERFORM check_source_{{v}}(tenant, is_live, (given->>'payment_method_id')::uuid, (p->'operation'->>'psp_account_id')::uuid,
                                   p->'operation'->'sources');
    END IF;
    INSERT INTO payment_intents (tenant_id, live, payment_id, amount_minor, currency, capture_method, customer_present,
        customer_id, payment_method_id, psp_account_id, reference, description, return_url, metadata, created_at, updated_at,
        expires_at, mandate_id, invoice_id, status, charge_operation_id)
    VALUES (tenant, is_live, (given->>'payment_id')::uuid, (given->>'amount_minor')::bigint, given->>'currency',
        given->>'capture_method', (given->>'customer_present')::boolean, (given->>'customer_id')::uuid,
        (given->>'payment_method_id')::uuid, (p->'operation'->>'psp_account_id')::uuid, given->>'reference',
        given->>'description', given->>'return_url', COALESCE(given->'metadata', '{}'), moment, moment,
        (given->>'expires_at')::timestamptz, (given->>'mandate_id')::uuid, (given->>'invoice_id')::uuid,
        CASE WHEN charging THEN 'processing' WHEN given->>'payment_method_id' IS NULL THEN 'requires_payment_method'
             ELSE 'requires_confirmation' END, (p->'operation'->>'operation_id')::uuid)
    RETURNING * INTO pay;
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'payment.created', 'payment', pay.payment_id, pay.sequence,
        pay.customer_id, jsonb_build_object('status', pay.status, 'amount_minor', pay.amount_minor, 'currency', pay.currency));
    IF NOT charging THEN
        IF p ? 'answer' THEN
            PERFORM idempotency_keep_{{v}}(tenant, is_live, decode(p->'idempotency'->>'key_hash', 'hex'),
                (p->'answer'->>'status')::integer, p->'answer'->>'body');
        END IF;
        RETURN jsonb_build_object('payment', to_jsonb(pay));
    END IF;
    p := jsonb_set(p, '{operation}', charge_allowed_{{v}}(p, pay));
    op := operation_insert_{{v}}(p, pay, CASE pay.capture_method WHEN 'manual' THEN 'authorize' ELSE 'purchase' END,
                                 pay.amount_minor, NULL);
    PERFORM invoice_charging_{{v}}(p, pay, op);
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>1)::uuid, 'operation.submitted', 'operation', op.operation_id, 1,
        pay.customer_id, jsonb_build_object('payment_id', pay.payment_id, 'kind', op.kind, 'amount_minor', op.amount_minor,
        'currency', op.currency, 'psp_account_id', op.psp_account_id));
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
        'operations', jsonb_build_array(to_jsonb(op)));
END $$;

-- p->'operation': {want: charge|capture|void|refund, amount_minor|null, ...}. For a charge the caller chose the account; the
-- others go to the account of the charge. With `unwinds` the gateway itself gives that charge back (nothing_to_unwind when another
-- process was faster).
CREATE OR REPLACE FUNCTION operation_open_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    want text := p->'operation'->>'want';
    asked bigint := (p->'operation'->>'amount_minor')::bigint;
    claim jsonb;
    pay payment_intents;
    charge operations;
    op operations;
    kind text;
    left_minor bigint;
    before text;
    detail jsonb;
    lacking jsonb; -- capabilities that the PSP of the charge has not
    missing text;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (p->>'payment_id')::uuid, (p->'operation'->>'operation_id')::uuid);
    IF claim IS NOT NULL THEN
        RETURN claim;
    END IF;
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = tenant AND live = is_live AND payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    END IF;
    before := pay.status;
    detail := jsonb_build_object('payment_status', pay.status);
    SELECT * INTO charge FROM operations o
    WHERE o.tenant_id = tenant AND o.live = is_live
      AND o.operation_id = COALESCE((p->'operation'->>'unwinds')::uuid, pay.charge_operation_id);
    SELECT COALESCE(p->'operation'->'lacking'->a.psp, '[]') INTO lacking FROM psp_accounts a
    WHERE a.tenant_id = tenant AND a.live = is_live AND a.psp_account_id = charge.psp_account_id;
    IF p->'operation' ? 'unwinds' THEN
        IF charge.state NOT IN ('surplus', 'succeeded', 'requires_action') OR NOT payment_unwinds_{{v}}(pay, true)
           OR (charge.state <> 'surplus' AND pay.cancel_requested_at IS NULL) THEN
            PERFORM refuse_{{v}}('nothing_to_unwind');
        END IF;
        left_minor := CASE
            WHEN charge.state = 'surplus' THEN charge.amount_minor - (
                SELECT COALESCE(sum(o.amount_minor), 0) FROM operations o WHERE o.tenant_id = tenant AND o.live = is_live
                AND o.payment_id = pay.payment_id AND o.parent_id = charge.operation_id AND o.kind IN ('void', 'refund')
                AND o.state IN ('succeeded', 'surplus'))
            WHEN charge.state = 'requires_action' THEN pay.amount_minor
            WHEN want = 'void' THEN pay.authorized_minor - pay.captured_minor - pay.capture_pending_minor - pay.voided_minor
            ELSE pay.captured_minor - pay.refunded_minor - pay.refund_pending_minor - pay.returned_minor END;
        IF left_minor <= 0 AND charge.state <> 'requires_action' THEN -- a verification that waits is given up: a void of nothing
            PERFORM refuse_{{v}}('nothing_to_unwind');
        END IF;
        p := jsonb_set(p, '{operation,psp_account_id}', to_jsonb(charge.psp_account_id));
        op := operation_insert_{{v}}(p, pay, want, left_minor, charge.operation_id);
        pay.unwind_at := NULL;
    ELSIF pay.outcome = 'unknown' THEN
        PERFORM refuse_{{v}}('operation_outcome_unknown', detail);
    ELSIF pay.status = 'processing' THEN
        PERFORM refuse_{{v}}('payment_in_progress', detail);
    END IF;

    IF p->'operation' ? 'unwinds' THEN
        NULL; -- inserted above
    ELSIF want = 'charge' THEN
        IF pay.status NOT IN ('requires_payment_method', 'requires_confirmation') THEN
            PERFORM refuse_{{v}}('payment_not_confirmable', detail);
        END IF;
        IF pay.expires_at <= moment THEN
            PERFORM refuse_{{v}}('payment_not_confirmable', jsonb_build_object('payment_status', 'expired'));
        END IF;
        pay.payment_method_id := COALESCE((p->'operation'->>'payment_method_id')::uuid, pay.payment_method_id);
        pay.return_url := COALESCE(p->'operation'->>'return_url', pay.return_url);
        IF pay.payment_method_id IS NULL THEN
            PERFORM refuse_{{v}}('payment_method_missing', detail);
        END IF;
        PERFORM check_method_{{v}}(tenant, is_live, pay.payment_method_id, pay.customer_id);
        PERFORM check_account_{{v}}(tenant, is_live, (p->'operation'->>'psp_account_id')::uuid);
        PERFORM check_source_{{v}}(tenant, is_live, pay.payment_method_id, (p->'operation'->>'psp_account_id')::uuid,
                                   p->'operation'->'sources');
        kind := CASE pay.capture_method WHEN 'manual' THEN 'authorize' ELSE 'purchase' END;
        p := jsonb_set(p, '{operation}', charge_allowed_{{v}}(p, pay));
        op := operation_insert_{{v}}(p, pay, kind, pay.amount_minor, NULL);
        PERFORM invoice_charging_{{v}}(p, pay, op);
    ELSE
        IF want = 'void' AND pay.status = 'requires_action' THEN
            left_minor := pay.amount_minor;
            IF EXISTS (SELECT FROM operations o WHERE o.tenant_id = tenant AND o.live = is_live AND o.payment_id = pay.payment_id
                       AND o.kind = 'void' AND o.state IN
                       ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')) THEN
                PERFORM refuse_{{v}}('payment_in_progress', detail);
            END IF;
        ELSIF charge.state IS DISTINCT FROM 'succeeded' OR pay.status IN ('canceled', 'expired') THEN
            PERFORM refuse_{{v}}(CASE want WHEN 'capture' THEN 'payment_not_capturable' WHEN 'void' THEN 'payment_not_cancelable'
                                 ELSE 'payment_not_refundable' END, detail);
        ELSIF want = 'refund' THEN
            left_minor := greatest(0, pay.captured_minor - pay.refunded_minor - pay.refund_pending_minor - pay.returned_minor
                                      - pay.disputed_minor);
            IF pay.captured_minor = 0 THEN
                PERFORM refuse_{{v}}('payment_not_refundable', detail);
            END IF;
        ELSE
            left_minor := pay.authorized_minor - pay.captured_minor - pay.capture_pending_minor - pay.voided_minor;
            -- Where a PSP takes one capture only, it releases the rest, whether it was told so or not.
            IF want = 'capture' AND asked < left_minor AND lacking ? 'multiple_capture' THEN
                p := jsonb_set(p, '{operation,final}', 'true');
            END IF;
            -- A void, and the release after a final capture, take whatever is left: no other capture may be under way.
            IF EXISTS (SELECT FROM operations o WHERE o.tenant_id = tenant AND o.live = is_live AND o.payment_id = pay.payment_id
                       AND (o.kind = 'void' OR (o.kind = 'capture' AND (want = 'void' OR o.final
                            OR (p->'operation'->>'final')::boolean))) AND o.state IN
                       ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')) THEN
                PERFORM refuse_{{v}}('payment_in_progress', detail);
            END IF;
            IF left_minor = 0 THEN
                PERFORM refuse_{{v}}(CASE want WHEN 'capture' THEN 'payment_not_capturable' ELSE 'payment_not_cancelable' END,
                                     detail);
            END IF;
        END IF;
        IF COALESCE(asked, left_minor) > left_minor OR (left_minor = 0 AND pay.status <> 'requires_action') THEN
            PERFORM refuse_{{v}}(CASE want WHEN 'capture' THEN 'amount_above_capturable' ELSE 'amount_above_refundable' END,
                detail || jsonb_build_object('available_minor', left_minor, 'currency', pay.currency));
        END IF;
        missing := CASE
            WHEN want = 'capture' AND asked < left_minor THEN 'partial_capture'
            WHEN want = 'void' AND pay.status <> 'requires_action' THEN 'void'
            WHEN want = 'refund' AND NOT lacking ? 'refund' AND COALESCE(asked, left_minor) < pay.captured_minor THEN 'partial_refund'
            WHEN want = 'refund' THEN 'refund' END;
        IF lacking ? missing THEN
            PERFORM refuse_{{v}}('not_offered_by_psp', detail || jsonb_build_object('capability', missing));
        END IF;
        IF want = 'refund' AND p->>'actor_type' = 'operator' AND p->>'approval_id' IS NULL THEN
            PERFORM refund_alone_{{v}}(p, pay, COALESCE(asked, left_minor));
        END IF;
        p := jsonb_set(p, '{operation,psp_account_id}', to_jsonb(charge.psp_account_id));
        op := operation_insert_{{v}}(p, pay, want, COALESCE(asked, left_minor), charge.operation_id);
    END IF;
    pay := payment_derive_{{v}}(pay);
    pay := payment_store_{{v}}(pay, moment);
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid,
        CASE op.kind WHEN 'refund' THEN 'refund.created' ELSE 'operation.submitted' END,
        CASE op.kind WHEN 'refund' THEN 'refund' ELSE 'operation' END, op.operation_id, pay.sequence,
        pay.customer_id, jsonb_build_object('payment_id', pay.payment_id, 'kind', op.kind, 'amount_minor', op.amount_minor,
        'currency', op.currency, 'psp_account_id', op.psp_account_id, 'status_before', before, 'status', pay.status));
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
        'operations', operations_of_{{v}}(pay));
END $$;

-- Take the lease of a charge that waits for the payer, to ask the PSP how it went. Also how a crashed call is resumed.
CREATE OR REPLACE FUNCTION operation_lease_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    claim jsonb;
    pay payment_intents;
    op operations;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (p->>'payment_id')::uuid, (p->>'operation_id')::uuid);
    IF claim ? 'replay' THEN
        RETURN claim;
    END IF;
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = tenant AND live = is_live AND payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    END IF;
    SELECT * INTO op FROM operations o
    WHERE o.tenant_id = tenant AND o.live = is_live AND o.payment_id = pay.payment_id
      AND o.operation_id = COALESCE((p->>'operation_id')::uuid, pay.charge_operation_id) FOR UPDATE;
    IF p->>'want' = 'continue' AND claim IS NULL AND op.state IS DISTINCT FROM 'requires_action' THEN
        PERFORM refuse_{{v}}(CASE WHEN pay.outcome = 'unknown' THEN 'operation_outcome_unknown'
            WHEN pay.status = 'processing' THEN 'payment_in_progress' ELSE 'payment_not_continuable' END,
            jsonb_build_object('payment_status', pay.status));
    END IF;
    IF op.operation_id IS NULL THEN
        RETURN jsonb_build_object('payment', to_jsonb(pay));
    END IF;
    IF op.state IN ('succeeded', 'declined', 'expired', 'not_charged', 'not_sent', 'surplus', 'needs_review')
       OR (p->>'want' = 'resume' AND op.state IN ('requires_action', 'pending')) THEN
        RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op));
    END IF;
    IF op.lease_until > moment THEN
        PERFORM refuse_{{v}}('payment_in_progress', jsonb_build_object('payment_status', pay.status));
    END IF;
    UPDATE operations SET lease_token = (p->>'lease_token')::uuid, lease_until = (p->>'lease_until')::timestamptz,
        sweep_at = (p->>'lease_until')::timestamptz, updated_at = moment
    WHERE tenant_id = tenant AND live = is_live AND operation_id = op.operation_id RETURNING * INTO op;
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
        'operations', operations_of_{{v}}(pay));
END $$;

-- Store one observation and everything that follows from it. p->'fact' is the observation; p->'lease_token' fences: a late
-- writer may add what the PSP said, but not that nothing was sent or that it does not know. p->'answer' is what the caller
-- predicts to answer; it is kept under the key if the prediction holds. p->'note_only' stores the fact without any effect: what is older
-- than what we know, or what was looked up before it is believed. p->'psp_sequence' is the PSP's own order: a lower one has no effect.
CREATE OR REPLACE FUNCTION operation_settle_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    f jsonb := p->'fact';
    observed text := p->'fact'->>'observed';
    a jsonb := p->'answer';
    pay payment_intents;
    op operations;
    after text;
    before text;
    before_op text;
    before_pay payment_intents;
    parent_state text;
    fee_before bigint;
    seen_sequence bigint;
    kept boolean := false;
    taken_back boolean;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    -- The key before the intent: a repetition that continues after its lease ran out holds the key and waits for the intent.
    PERFORM FROM idempotency_keys WHERE tenant_id = tenant AND live = is_live AND key_hash = decode(a->>'key_hash', 'hex')
    FOR UPDATE;
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = tenant AND live = is_live AND payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    SELECT * INTO op FROM operations
    WHERE tenant_id = tenant AND live = is_live AND operation_id = (p->>'operation_id')::uuid
      AND payment_id = pay.payment_id FOR UPDATE;
    IF op.operation_id IS NULL THEN
        PERFORM refuse_{{v}}('operation_not_found');
    END IF;
    -- Unasked news was judged against a state that another message has changed since: it may contradict now, and must be judged again.
    IF p->>'judged' IS NOT NULL AND op.state <> p->>'judged' AND observed <> op.state
       AND op.state IN ('succeeded', 'declined', 'expired', 'not_charged', 'not_sent', 'surplus', 'reversed') THEN
        PERFORM refuse_{{v}}('operation_moved_on');
    END IF;
    -- An answer that a refund succeeded, after news that it failed: either it failed later, or the news lied. The PSP must be asked.
    IF observed = 'succeeded' AND op.state = 'declined' AND op.kind = 'refund' AND f->>'source' = 'response'
       AND NOT COALESCE((p->>'looked_up')::boolean, false) THEN
        PERFORM refuse_{{v}}('operation_moved_on');
    END IF;
    before := pay.status;
    before_op := op.state;
    before_pay := pay;
    fee_before := op.fee_minor;
    seen_sequence := op.psp_sequence;

    -- A reference that belongs to another operation of this account proves nothing about this one.
    IF f->>'psp_ref' IS NOT NULL AND EXISTS (
        SELECT FROM operations o WHERE o.tenant_id = tenant AND o.live = is_live AND o.psp_account_id = op.psp_account_id
        AND o.psp_ref = f->>'psp_ref' AND o.operation_id <> op.operation_id) THEN
        observed := 'unknown';
        f := f || jsonb_build_object('observed', 'unknown', 'code', 'psp_reference_reused');
    END IF;
    IF op.psp_ref IS NOT NULL AND f->>'psp_ref' IS NOT NULL AND op.psp_ref <> f->>'psp_ref' AND observed <> 'unknown' THEN
        observed := 'unknown';
        f := f || jsonb_build_object('observed', 'unknown', 'code', 'psp_reference_changed');
    END IF;

    INSERT INTO facts (tenant_id, live, fact_id, payment_id, operation_id, source, observed, amount_minor, currency, psp_ref, code,
                       raw_code, raw, payload_hash, observed_at, authentication)
    VALUES (tenant, is_live, (f->>'fact_id')::uuid, pay.payment_id, op.operation_id, f->>'source', observed,
            (f->>'amount_minor')::bigint, f->>'currency', f->>'psp_ref', f->>'code', f->>'raw_code', f->'raw',
            decode(f->>'payload_hash', 'hex'), moment, NULLIF(f->'authentication', 'null'));

    after := CASE
        WHEN (p->>'note_only')::boolean OR (p->>'psp_sequence')::bigint <= op.psp_sequence THEN op.state
        WHEN observed IN ('unknown', 'not_sent') AND op.lease_token IS DISTINCT FROM (p->>'lease_token')::uuid THEN op.state
        -- The answer said that it succeeded, the PSP's own record that it failed: it failed after it had succeeded.
        WHEN observed = 'declined' AND op.state = 'declined' AND op.kind = 'refund' AND (p->>'taken_back')::boolean THEN 'reversed'
        WHEN observed = op.state THEN op.state
        WHEN observed = 'succeeded' AND op.state IN ('declined', 'expired', 'not_charged', 'not_sent')
             THEN 'surplus'
        WHEN observed = 'declined' AND op.state = 'succeeded' AND op.kind = 'refund' AND f->>'source' <> 'response' THEN 'reversed'
        WHEN operation_may_become(op.state, observed) THEN observed
        ELSE op.state END;
    taken_back := op.state = 'declined' AND after = 'reversed'; -- why it failed is known already
    UPDATE operations SET
        state = after,
        psp_ref = CASE WHEN f->>'code' IN ('psp_reference_reused', 'psp_reference_changed') THEN psp_ref
                       ELSE COALESCE(psp_ref, f->>'psp_ref') END,
        code = CASE WHEN (after <> op.state AND NOT taken_back) OR after = 'unknown' THEN f->>'code' ELSE code END,
        raw_code = CASE WHEN after <> op.state AND NOT taken_back THEN f->>'raw_code' ELSE raw_code END,
        advice = CASE WHEN after <> op.state AND NOT taken_back THEN f->>'advice' ELSE advice END,
        network_code = CASE WHEN after <> op.state AND NOT taken_back THEN f->>'network_code' ELSE network_code END,
        message = CASE WHEN after <> op.state AND NOT taken_back THEN f->>'message' ELSE message END,
        next_action = CASE WHEN after = 'requires_action' THEN COALESCE(NULLIF(p->'next_action', 'null'), next_action) END,
        action_expires_at = CASE WHEN after = 'requires_action'
                                 THEN COALESCE((p->>'action_expires_at')::timestamptz, action_expires_at) END,
        lease_until = CASE WHEN op.lease_token IS NOT DISTINCT FROM (p->>'lease_token')::uuid THEN NULL ELSE lease_until END,
        sweep_at = CASE WHEN after IN ('pending', 'unknown', 'needs_review') THEN COALESCE((p->>'sweep_at')::timestamptz, sweep_at)
                        -- Somebody else looks already, and knows better when to look again.
                        WHEN after = 'submitted' THEN sweep_at
                        WHEN after = 'requires_action' THEN COALESCE((p->>'action_expires_at')::timestamptz, action_expires_at)
                   END,
        decided_at = CASE WHEN after IN ('succeeded', 'declined', 'expired', 'not_charged', 'not_sent', 'surplus', 'reversed')
                          THEN COALESCE(decided_at, moment) END,
        fee_minor = CASE WHEN after IN ('succeeded', 'surplus') THEN COALESCE((f->>'fee_minor')::bigint, fee_minor) ELSE fee_minor END,
        psp_sequence = greatest(psp_sequence, (p->>'psp_sequence')::bigint),
        updated_at = moment
    WHERE tenant_id = tenant AND live = is_live AND operation_id = op.operation_id RETURNING * INTO op;

    -- A void that took effect on a charge which waited for the payer ends that charge.
    IF op.kind = 'void' THEN
        SELECT o.state INTO parent_state FROM operations o
        WHERE o.tenant_id = tenant AND o.live = is_live AND o.operation_id = op.parent_id;
    END IF;
    IF op.kind = 'void' AND after = 'succeeded' AND before_op <> 'succeeded' AND parent_state <> 'surplus' THEN
        UPDATE operations SET state = 'expired', code = 'canceled', next_action = NULL, sweep_at = NULL, lease_until = NULL,
            decided_at = moment, updated_at = moment
        WHERE tenant_id = tenant AND live = is_live AND operation_id = op.parent_id AND state IN ('requires_action', 'pending');
        pay.canceled_at := moment;
        pay.cancellation_reason := COALESCE(pay.cancel_request_reason, op.reason);
    END IF;
    IF f->>'network_transaction_id' IS NOT NULL THEN
        UPDATE payment_methods SET network_transaction_id = f->>'network_transaction_id', updated_at = moment,
            sequence = sequence + 1
        WHERE tenant_id = tenant AND live = is_live AND payment_method_id = op.payment_method_id
          AND network_transaction_id IS NULL;
    END IF;
    IF f->>'stored_token' IS NOT NULL AND observed = 'succeeded' AND op.payment_method_id IS NOT NULL THEN
        INSERT INTO payment_method_tokens (tenant_id, live, payment_method_id, psp_account_id, token, operation_id, updated_at)
        VALUES (tenant, is_live, op.payment_method_id, op.psp_account_id, f->>'stored_token', op.operation_id, moment)
        ON CONFLICT (tenant_id, live, payment_method_id, psp_account_id) DO UPDATE
        SET token = excluded.token, operation_id = excluded.operation_id, updated_at = excluded.updated_at
        WHERE payment_method_tokens.token <> excluded.token;
    END IF;

    IF after <> before_op THEN
        pay := payment_derive_{{v}}(pay);
        IF payment_unwinds_{{v}}(pay, COALESCE((p->>'unwind_surplus')::boolean, true)) THEN
            pay.unwind_at := COALESCE((p->>'unwind_at')::timestamptz, moment);
        ELSE
            pay.unwind_at := NULL;
        END IF;
        pay := payment_store_{{v}}(pay, moment);
        PERFORM ledger_post_{{v}}(p, before_pay, pay, op, fee_before);
        PERFORM mandate_settled_{{v}}(p, pay, op);
        PERFORM invoice_settled_{{v}}(p, pay, op);
        PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, CASE op.kind
                WHEN 'refund' THEN 'refund.' || CASE after WHEN 'declined' THEN 'failed' ELSE after END
                WHEN 'capture' THEN 'payment.' || CASE after WHEN 'succeeded' THEN 'captured' WHEN 'declined'
                    THEN 'capture_failed' ELSE 'capture_' || after END
                WHEN 'void' THEN 'payment.' || CASE after WHEN 'succeeded' THEN CASE WHEN parent_state = 'surplus'
                    THEN 'surplus_returned' WHEN pay.status = 'canceled' THEN 'canceled' ELSE 'voided' END WHEN 'declined' THEN 'void_failed' ELSE 'void_' || after END
                ELSE 'payment.' || CASE after WHEN 'succeeded' THEN CASE op.kind WHEN 'authorize' THEN 'authorized'
                    ELSE 'succeeded' END WHEN 'expired' THEN 'action_expired' ELSE after END END,
            CASE WHEN op.kind = 'refund' THEN 'refund' ELSE 'payment' END,
            CASE WHEN op.kind = 'refund' THEN op.operation_id ELSE pay.payment_id END, pay.sequence, pay.customer_id,
            jsonb_strip_nulls(jsonb_build_object('payment_id', pay.payment_id, 'operation_id', op.operation_id, 'kind', op.kind,
                'operation_before', before_op, 'operation_after', after, 'status_before', before, 'status', pay.status,
                'amount_minor', op.amount_minor, 'currency', op.currency, 'code', op.code, 'raw_code', op.raw_code,
                'source', f->>'source', 'psp_account_id', op.psp_account_id)));
    ELSIF op.fee_minor IS DISTINCT FROM fee_before THEN
        PERFORM ledger_post_{{v}}(p, before_pay, pay, op, fee_before);
    END IF;
    IF (observed = 'declined' AND before_op = 'succeeded' AND after = 'succeeded'
            AND COALESCE((p->>'psp_sequence')::bigint > seen_sequence, true)) OR f->>'code' IN ('psp_reference_reused', 'psp_reference_changed',
            'amount_mismatch') OR (after = 'surplus' AND before_op <> 'surplus')
       OR (after = 'declined' AND before_op <> 'declined' AND op.routing->>'rule' = 'unwind') THEN
        PERFORM journal_write_{{v}}(p, (p->'event_ids'->>1)::uuid, 'incident.opened', 'payment', pay.payment_id, pay.sequence,
            pay.customer_id, jsonb_strip_nulls(jsonb_build_object('operation_id', op.operation_id, 'state', after,
            'observed', observed, 'code', f->>'code')));
    END IF;
    IF a IS NOT NULL AND a <> 'null' AND pay.sequence = (a->>'sequence')::integer AND pay.status = a->>'payment_status'
       AND op.state = a->>'operation_state' AND op.code IS NOT DISTINCT FROM a->>'code'
       AND op.psp_ref IS NOT DISTINCT FROM a->>'psp_ref' THEN
        kept := idempotency_keep_{{v}}(tenant, is_live, decode(a->>'key_hash', 'hex'), (a->>'status')::integer, a->>'body');
    END IF;
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'kept', kept);
END $$;

-- Cancel (want = cancel) or expire (want = expire) an intent that has no live charge at a PSP; otherwise payment_has_charge. A
-- cancellation of a charge whose outcome is open is noted (`requested`) and carried out as soon as the outcome is known.
CREATE OR REPLACE FUNCTION payment_close_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    claim jsonb;
    pay payment_intents;
    charge operations;
    before text;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (p->>'payment_id')::uuid, NULL);
    IF claim ? 'replay' THEN
        RETURN claim;
    END IF;
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND payment_id = (p->>'payment_id')::uuid
    FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    END IF;
    IF p->>'want' = 'cancel' AND pay.status = 'processing' THEN
        SELECT * INTO charge FROM operations o
        WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live AND o.operation_id = pay.charge_operation_id;
        IF charge.state NOT IN ('unknown', 'needs_review', 'pending') AND charge.lease_until > moment THEN
            PERFORM refuse_{{v}}('payment_in_progress', jsonb_build_object('payment_status', pay.status));
        END IF;
        IF pay.cancel_requested_at IS NULL THEN
            pay.cancel_requested_at := moment;
            pay.cancel_request_reason := p->>'reason';
            pay := payment_store_{{v}}(pay, moment);
            PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'payment.cancel_requested', 'payment', pay.payment_id,
                pay.sequence, pay.customer_id, jsonb_build_object('status', pay.status, 'operation_id', charge.operation_id,
                'amount_minor', pay.amount_minor, 'currency', pay.currency));
        END IF;
        RETURN jsonb_build_object('payment', to_jsonb(pay), 'operations', operations_of_{{v}}(pay));
    END IF;
    IF claim IS NULL OR pay.status NOT IN ('canceled', 'expired') THEN
        IF pay.status NOT IN ('requires_payment_method', 'requires_confirmation')
           OR (p->>'want' = 'expire' AND pay.expires_at > moment) THEN
            PERFORM refuse_{{v}}('payment_has_charge', jsonb_build_object('payment_status', pay.status));
        END IF;
        before := pay.status;
        IF p->>'want' = 'cancel' THEN
            pay.canceled_at := moment;
            pay.cancellation_reason := p->>'reason';
        ELSE
            pay.expired_at := moment;
        END IF;
        pay := payment_derive_{{v}}(pay);
        pay := payment_store_{{v}}(pay, moment);
        PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'payment.' || pay.status, 'payment', pay.payment_id,
            pay.sequence, pay.customer_id, jsonb_build_object('status_before', before, 'status', pay.status,
            'amount_minor', pay.amount_minor, 'currency', pay.currency));
    END IF;
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operations', operations_of_{{v}}(pay));
END $$;
