-- Where payments and invoices meet, in the transaction of the payment.
--
--   invoice_charging   a charge is being reserved for an invoice: may it be, and is it the invoice's amount
--   invoice_settled    a charge of an invoice has a new state: paid, free for the next try, or locked
--   mandate_settled    what a charge says about its mandate: active from now on, suspended, or revoked by the issuer
--   mandate_revoke     revoked, and everything that rests on it stops, in one transaction
--
-- Lock order: payment, mandate, subscription, invoice, rebill.

-- p->'rebill': {lease_token, try, reason, delay_s} of the scheduler; absent when the customer pays by himself.
CREATE OR REPLACE FUNCTION invoice_charging_{{v}}(p jsonb, pay payment_intents, op operations) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    i invoices;
    s subscriptions;
    r rebills;
    b jsonb := NULLIF(p->'rebill', 'null');
    at_ timestamptz := COALESCE(op.clock_at, (p->>'now')::timestamptz);
BEGIN
    IF pay.invoice_id IS NULL THEN
        RETURN;
    END IF;
    SELECT x.* INTO s FROM subscriptions x JOIN invoices y USING (tenant_id, live, subscription_id)
    WHERE y.tenant_id = pay.tenant_id AND y.live = pay.live AND y.invoice_id = pay.invoice_id FOR NO KEY UPDATE OF x;
    SELECT * INTO i FROM invoices
    WHERE tenant_id = pay.tenant_id AND live = pay.live AND invoice_id = pay.invoice_id FOR NO KEY UPDATE;
    IF i.invoice_id IS NULL OR i.status NOT IN ('open', 'uncollectible') OR (b IS NOT NULL AND (i.status <> 'open'
       OR s.status IN ('canceled', 'incomplete_expired'))) THEN
        PERFORM refuse_{{v}}('invoice_not_payable', jsonb_build_object('invoice_status', i.status));
    ELSIF i.payment_locked THEN
        PERFORM refuse_{{v}}('payment_in_progress', jsonb_build_object('payment_status', pay.status));
    ELSIF (i.due_minor - i.credited_minor, i.currency) IS DISTINCT FROM (op.amount_minor, op.currency)
       OR i.customer_id IS DISTINCT FROM pay.customer_id THEN
        PERFORM refuse_{{v}}('invoice_not_payable', jsonb_build_object('invoice_status', i.status, 'reason', 'another_amount_or_customer'));
    END IF;
    IF b IS NOT NULL THEN
        UPDATE rebills SET tries = (b->>'try')::integer, updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id AND state = 'claimed'
          AND lease_token = (b->>'lease_token')::uuid AND tries = (b->>'try')::integer - 1
        RETURNING * INTO r;
        IF r.invoice_id IS NULL THEN
            PERFORM refuse_{{v}}('rebill_lease_lost');
        END IF;
        INSERT INTO rebill_tries (tenant_id, live, invoice_id, try, operation_id, delay_s, reason, at)
        VALUES (i.tenant_id, i.live, i.invoice_id, r.tries, op.operation_id, COALESCE((b->>'delay_s')::bigint, 0), b->>'reason', at_);
    END IF;
    UPDATE invoices SET payment_id = pay.payment_id, payment_locked = true, updated_at = at_
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id;
END $$;

CREATE OR REPLACE FUNCTION invoice_settled_{{v}}(p jsonb, pay payment_intents, op operations) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    i invoices;
    s subscriptions;
    before text;
    moment timestamptz := (p->>'now')::timestamptz;
    at_ timestamptz := COALESCE(op.clock_at, (p->>'now')::timestamptz);
BEGIN
    IF pay.invoice_id IS NULL OR op.kind NOT IN ('authorize', 'purchase') THEN
        RETURN;
    END IF;
    SELECT x.* INTO s FROM subscriptions x JOIN invoices y USING (tenant_id, live, subscription_id)
    WHERE y.tenant_id = pay.tenant_id AND y.live = pay.live AND y.invoice_id = pay.invoice_id FOR NO KEY UPDATE OF x;
    SELECT * INTO STRICT i FROM invoices
    WHERE tenant_id = pay.tenant_id AND live = pay.live AND invoice_id = pay.invoice_id FOR NO KEY UPDATE;
    before := s.status;
    IF pay.status = 'succeeded' AND op.state = 'succeeded' THEN
        IF i.status NOT IN ('open', 'uncollectible') THEN
            -- Void meanwhile: the money goes back (payment_unwinds looks at it).
            UPDATE payment_intents SET cancel_requested_at = COALESCE(cancel_requested_at, moment),
                cancel_request_reason = COALESCE(cancel_request_reason, 'invoice_void'), unwind_at = moment
            WHERE tenant_id = pay.tenant_id AND live = pay.live AND payment_id = pay.payment_id AND i.status = 'void';
            UPDATE invoices SET payment_locked = false, updated_at = at_
            WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id;
            RETURN;
        END IF;
        UPDATE invoices SET status = 'paid', paid_at = at_, payment_locked = false, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id RETURNING * INTO i;
        UPDATE rebills SET state = 'settled', next_at = NULL, lease_token = NULL, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id;
        UPDATE notices SET state = 'dropped', due_at = NULL, error = 'invoice_paid', updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id AND state = 'queued'
          AND kind IN ('reminder', 'payment_failed', 'action_needed', 'pre_debit');
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'paid ' || i.invoice_id), 'invoice.paid', 'invoice', i.invoice_id, i.sequence,
            i.customer_id, jsonb_strip_nulls(jsonb_build_object('subscription_id', i.subscription_id, 'payment_id', pay.payment_id,
            'number', i.number, 'amount_minor', i.due_minor, 'currency', i.currency, 'status', i.status)));
        PERFORM notice_queue_{{v}}(p, 'receipt', i.customer_id, i.subscription_id, i.invoice_id, 'receipt:' || i.invoice_id, at_,
                                   i.test_clock_id);
        -- The customer paid by himself and agreed to be charged with this card from now on.
        IF s.ended_at IS NULL AND NOT op.merchant_initiated AND op.mandate_id IS DISTINCT FROM s.mandate_id AND EXISTS (
            SELECT FROM mandates m WHERE m.tenant_id = op.tenant_id AND m.live = op.live AND m.mandate_id = op.mandate_id
            AND m.status = 'active' AND m.payment_method_id = op.payment_method_id AND m.purpose = 'recurring') THEN
            UPDATE subscriptions SET payment_method_id = op.payment_method_id, mandate_id = op.mandate_id, psp_account_id = NULL,
                sequence = sequence + 1, updated_at = at_
            WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, s.subscription_id || ' ' || s.sequence), 'subscription.changed',
                'subscription', s.subscription_id, s.sequence, s.customer_id, jsonb_build_object('status', s.status,
                'payment_method_id', s.payment_method_id, 'mandate_id', s.mandate_id));
            PERFORM card_notice_{{v}}(p, s, at_);
            PERFORM rebills_wake_{{v}}(p, s, at_);
        END IF;
        IF s.status = 'incomplete' OR (s.status IN ('past_due', 'unpaid') AND NOT EXISTS (
            SELECT FROM rebills r JOIN invoices o USING (tenant_id, live, invoice_id)
            WHERE r.tenant_id = s.tenant_id AND r.live = s.live AND r.subscription_id = s.subscription_id AND o.status = 'open'
              AND r.first_failed_at IS NOT NULL)) THEN
            UPDATE subscriptions SET
                status = CASE WHEN s.status = 'incomplete' AND trial_end_at > at_ THEN 'trialing' ELSE 'active' END,
                next_at = least(current_period_end, cancel_at), incomplete_until = NULL, sequence = sequence + 1, updated_at = at_
            WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
        END IF;
    ELSIF op.state IN ('declined', 'expired', 'not_charged', 'not_sent') THEN
        UPDATE invoices SET payment_locked = false, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id RETURNING * INTO i;
        -- A try of the scheduler: now a decision is due. What the customer tried himself changes no plan.
        UPDATE rebills r SET state = 'decide', next_at = at_, lease_token = NULL, last_code = COALESCE(op.code, op.state),
            first_failed_at = COALESCE(r.first_failed_at, CASE WHEN op.state = 'declined' THEN at_ END), sequence = r.sequence + 1,
            updated_at = at_
        FROM rebill_tries t
        WHERE r.tenant_id = i.tenant_id AND r.live = i.live AND r.invoice_id = i.invoice_id AND r.state IN ('claimed', 'waiting')
          AND t.tenant_id = r.tenant_id AND t.live = r.live AND t.invoice_id = r.invoice_id AND t.operation_id = op.operation_id
          AND t.try = r.tries;
        IF op.state = 'declined' THEN
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'failed ' || op.operation_id), 'invoice.payment_failed', 'invoice',
                i.invoice_id, i.sequence, i.customer_id, jsonb_strip_nulls(jsonb_build_object('subscription_id', i.subscription_id,
                'payment_id', pay.payment_id, 'operation_id', op.operation_id, 'code', op.code, 'amount_minor', op.amount_minor,
                'currency', op.currency)));
            IF s.status = 'active' AND op.merchant_initiated AND i.status = 'open' THEN
                UPDATE subscriptions SET status = 'past_due', sequence = sequence + 1, updated_at = at_
                WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
            END IF;
        END IF;
    END IF;
    IF s.status <> before THEN
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, s.subscription_id || ' ' || s.sequence),
            CASE WHEN before = 'incomplete' THEN 'subscription.activated' WHEN s.status = 'past_due' THEN 'subscription.past_due'
                 ELSE 'subscription.recovered' END,
            'subscription', s.subscription_id, s.sequence, s.customer_id,
            jsonb_build_object('status_before', before, 'status', s.status, 'invoice_id', i.invoice_id));
    END IF;
END $$;

-- Stop the collection of a subscription's invoices; what is under way at a PSP resolves by itself.
CREATE OR REPLACE FUNCTION rebills_stop_{{v}}(p jsonb, s subscriptions, at_ timestamptz, because text) RETURNS void LANGUAGE sql AS $$
    UPDATE rebills SET state = 'stopped', next_at = NULL, lease_token = NULL, stopped_because = because, sequence = sequence + 1,
        updated_at = at_
    WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id
      AND state IN ('due', 'claimed', 'decide', 'waiting');
$$;

-- p->'mandate_activation': {"authentication": "eea"|"always"|"never", "eea": [countries], "suspend": [codes]}: whether the first
-- payment must have been authenticated by the customer, and after which declines the merchant may not try again until the customer
-- has paid once more. p->'fact'->'authenticated': the PSP says that he was challenged.
CREATE OR REPLACE FUNCTION mandate_settled_{{v}}(p jsonb, pay payment_intents, op operations) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    m mandates;
    moment timestamptz := (p->>'now')::timestamptz;
    at_ timestamptz := COALESCE(op.clock_at, (p->>'now')::timestamptz);
    challenged boolean;
    country text;
    before text;
BEGIN
    IF op.kind NOT IN ('authorize', 'purchase') OR op.mandate_id IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO m FROM mandates
    WHERE tenant_id = pay.tenant_id AND live = pay.live AND mandate_id = op.mandate_id FOR NO KEY UPDATE;
    before := m.status;
    IF op.state = 'succeeded' AND m.status IN ('pending', 'suspended') AND NOT op.merchant_initiated
       AND m.payment_method_id = op.payment_method_id THEN
        -- What the PSP says counts; one that says nothing about it, but asked for an action of the customer, challenged him.
        challenged := COALESCE((p->'fact'->>'authenticated')::boolean, EXISTS (
            SELECT FROM facts f WHERE f.tenant_id = op.tenant_id AND f.live = op.live AND f.operation_id = op.operation_id
            AND f.observed = 'requires_action'));
        SELECT issuer_country INTO country FROM payment_methods
        WHERE tenant_id = op.tenant_id AND live = op.live AND payment_method_id = op.payment_method_id;
        IF challenged OR p->'mandate_activation'->>'authentication' = 'never'
           OR (p->'mandate_activation'->>'authentication' = 'eea' AND NOT COALESCE(p->'mandate_activation'->'eea' ? country, false)) THEN
            UPDATE mandates SET status = 'active', activated_at = at_, authenticated = challenged, psp_account_id = op.psp_account_id,
                network_transaction_id = p->'fact'->>'network_transaction_id', payment_id = pay.payment_id,
                operation_id = op.operation_id, suspended_because = NULL, sequence = sequence + 1, updated_at = at_
            WHERE tenant_id = m.tenant_id AND live = m.live AND mandate_id = m.mandate_id RETURNING * INTO m;
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'active ' || m.mandate_id || ' ' || m.sequence), 'mandate.activated', 'mandate', m.mandate_id,
                m.sequence, m.customer_id, jsonb_build_object('status_before', before, 'status', m.status,
                'payment_id', pay.payment_id, 'authenticated', challenged));
            PERFORM subscriptions_verified_{{v}}(p, m, at_);
        ELSE
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'unauthenticated ' || m.mandate_id || op.operation_id),
                'mandate.not_activated', 'mandate', m.mandate_id, m.sequence, m.customer_id,
                jsonb_build_object('status', m.status, 'payment_id', pay.payment_id, 'reason', 'not_authenticated'));
        END IF;
    ELSIF op.state = 'declined' AND op.merchant_initiated AND m.status IN ('active', 'suspended')
          AND (op.code = 'consent_revoked' OR op.advice = '21') THEN
        PERFORM mandate_revoke_{{v}}(p || jsonb_build_object('mandate_id', m.mandate_id, 'because', 'issuer', 'at', at_));
    ELSIF op.state = 'declined' AND op.merchant_initiated AND m.status = 'active'
          AND COALESCE(p->'mandate_activation'->'suspend' ? op.code, false) THEN
        UPDATE mandates SET status = 'suspended', suspended_because = op.code, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = m.tenant_id AND live = m.live AND mandate_id = m.mandate_id RETURNING * INTO m;
        PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'suspended ' || m.mandate_id || ' ' || m.sequence), 'mandate.suspended',
            'mandate', m.mandate_id, m.sequence, m.customer_id, jsonb_build_object('status_before', before, 'status', m.status,
            'payment_id', pay.payment_id, 'operation_id', op.operation_id, 'code', op.code));
    END IF;
END $$;

-- Revoke p->>'mandate_id' at p->>'at' because of p->>'because'. Subscriptions that rest on it are paused until they have another;
-- their retries and reminders end now. Returns whether it was not revoked before.
CREATE OR REPLACE FUNCTION mandate_revoke_{{v}}(p jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    at_ timestamptz := COALESCE((p->>'at')::timestamptz, (p->>'now')::timestamptz);
    moment timestamptz := (p->>'now')::timestamptz;
    m mandates;
    s subscriptions;
    before text;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE mandates SET status = 'revoked', revoked_at = at_, revoked_because = p->>'because', sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = tenant AND live = is_live AND mandate_id = (p->>'mandate_id')::uuid AND status <> 'revoked' RETURNING * INTO m;
    IF m.mandate_id IS NULL THEN
        RETURN false;
    END IF;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'revoked ' || m.mandate_id), 'mandate.revoked', 'mandate', m.mandate_id, m.sequence,
        m.customer_id, jsonb_build_object('status', m.status, 'because', m.revoked_because));
    FOR s IN SELECT * FROM subscriptions WHERE tenant_id = tenant AND live = is_live AND mandate_id = m.mandate_id
             AND ended_at IS NULL ORDER BY subscription_id FOR NO KEY UPDATE LOOP
        before := s.status;
        PERFORM rebills_stop_{{v}}(p, s, at_, 'mandate_revoked');
        UPDATE notices SET state = 'dropped', due_at = NULL, error = 'mandate_revoked', updated_at = at_
        WHERE tenant_id = tenant AND live = is_live AND subscription_id = s.subscription_id AND state = 'queued'
          AND kind IN ('reminder', 'payment_failed', 'action_needed', 'pre_debit', 'card_expiring');
        IF s.status IN ('trialing', 'active', 'past_due') THEN
            UPDATE subscriptions SET status = 'paused', paused_at = at_, resume_at = NULL, status_before_pause = s.status,
                mandate_id = NULL, sequence = sequence + 1, updated_at = at_
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = s.subscription_id RETURNING * INTO s;
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, s.subscription_id || ' ' || s.sequence), 'subscription.paused',
                'subscription', s.subscription_id, s.sequence, s.customer_id,
                jsonb_build_object('status_before', before, 'status', s.status, 'reason', 'mandate_revoked'));
        ELSE
            UPDATE subscriptions SET mandate_id = NULL, updated_at = at_
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = s.subscription_id;
        END IF;
    END LOOP;
    RETURN true;
END $$;
