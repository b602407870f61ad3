-- What a merchant does with subscriptions, as far as one statement after the other would not do.
--
--   subscription_invoice    open an invoice over lines that were computed already (models.totals)
--   subscriptions_cancel    end subscriptions now, with what becomes of their open invoices
--   subscriptions_verified  a mandate became active: what waited for it begins
--
-- Lock order: payment, mandate, subscription, invoice, rebill.

-- p: tenant_id, live, now, at, actor and request; invoice: its columns; lines: theirs; collect: due|decide|waiting|null, the
-- state of its rebill, and collect_at, when somebody looks at it first (default: at).
CREATE OR REPLACE FUNCTION subscription_invoice_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    at_ timestamptz := (p->>'at')::timestamptz;
    given jsonb := p->'invoice';
    i invoices;
    prefix text;
    taken bigint;
BEGIN
    INSERT INTO billing_settings (tenant_id, live, updated_at) VALUES (tenant, is_live, (p->>'now')::timestamptz) ON CONFLICT DO NOTHING;
    UPDATE billing_settings SET invoice_next = invoice_next + 1 WHERE tenant_id = tenant AND live = is_live
    RETURNING invoice_prefix, invoice_next - 1 INTO STRICT prefix, taken;
    i := jsonb_populate_record(NULL::invoices, given || jsonb_build_object('tenant_id', tenant, 'live', is_live, 'metadata', '{}'::jsonb,
        'number', document_number_{{v}}(prefix, taken), 'status', CASE (given->>'due_minor')::bigint WHEN 0 THEN 'paid' ELSE 'open' END,
        'credited_minor', 0, 'payment_locked', false, 'sequence', 1, 'created_at', at_, 'updated_at', at_, 'opened_at', at_,
        'paid_at', CASE (given->>'due_minor')::bigint WHEN 0 THEN at_ END));
    INSERT INTO invoices SELECT i.*;
    INSERT INTO invoice_lines (tenant_id, live, invoice_id, position, kind, plan_id, description, quantity, unit_amount_minor,
        amount_minor, discount_minor, tax_name, tax_rate_bp, tax_inclusive, tax_minor, period_start, period_end)
    SELECT tenant, is_live, i.invoice_id, n, l.kind, l.plan_id, l.description, l.quantity, l.unit_amount_minor, l.amount_minor,
           l.discount_minor, l.tax_name, l.tax_rate_bp, l.tax_inclusive, l.tax_minor, l.period_start, l.period_end
    FROM jsonb_array_elements(p->'lines') WITH ORDINALITY AS t(line, n), jsonb_populate_record(NULL::invoice_lines, line) AS l;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'opened ' || i.invoice_id),
        CASE i.status WHEN 'paid' THEN 'invoice.paid' ELSE 'invoice.opened' END, 'invoice', i.invoice_id, 1, i.customer_id,
        jsonb_build_object('subscription_id', i.subscription_id, 'status', i.status, 'reason', i.reason, 'number', i.number,
            'amount_minor', i.due_minor, 'currency', i.currency, 'collection', i.collection));
    IF p->>'collect' IS NOT NULL AND i.status = 'open' AND i.collection = 'automatic' THEN
        INSERT INTO rebills (tenant_id, live, invoice_id, subscription_id, psp_account_id, state, next_at, test_clock_id, created_at,
                             updated_at)
        VALUES (tenant, is_live, i.invoice_id, i.subscription_id, (p->>'psp_account_id')::uuid, p->>'collect',
                COALESCE((p->>'collect_at')::timestamptz, at_), i.test_clock_id,
                at_, at_);
    END IF;
    RETURN jsonb_build_object('number', i.number, 'status', i.status);
END $$;

-- p: subscription_id, or customer_id for all of a customer; at, reason, invoices: void|keep, actor and request. What has ended stays.
CREATE OR REPLACE FUNCTION subscriptions_cancel_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    at_ timestamptz := (p->>'at')::timestamptz;
    moment timestamptz := (p->>'now')::timestamptz;
    whose uuid := (p->>'customer_id')::uuid;
    which uuid[];
    locked uuid[];
    again boolean := true;
    s subscriptions;
    i invoices;
    pay payment_intents;
    before text;
BEGIN
    -- A payment may appear until the subscription is held; then its lock is to be had first, so everything is let go and tried again.
    FOR _ IN 1..20 LOOP
        BEGIN
            which := ARRAY(SELECT subscription_id FROM subscriptions WHERE tenant_id = tenant AND live = is_live AND ended_at IS NULL
                AND (subscription_id = (p->>'subscription_id')::uuid OR customer_id = whose) ORDER BY subscription_id);
            locked := ARRAY(SELECT payment_id FROM invoices WHERE tenant_id = tenant AND live = is_live
                AND subscription_id = ANY (which) AND status = 'open' AND payment_id IS NOT NULL ORDER BY payment_id);
            PERFORM FROM payment_intents WHERE tenant_id = tenant AND live = is_live AND payment_id = ANY (locked)
            ORDER BY payment_id FOR UPDATE;
            -- A customer who goes takes the mandates along, in this transaction.
            PERFORM FROM mandates WHERE tenant_id = tenant AND live = is_live AND customer_id = whose
            ORDER BY mandate_id FOR NO KEY UPDATE;
            PERFORM FROM subscriptions WHERE tenant_id = tenant AND live = is_live AND subscription_id = ANY (which)
            ORDER BY subscription_id FOR NO KEY UPDATE;
            IF EXISTS (SELECT FROM invoices WHERE tenant_id = tenant AND live = is_live AND subscription_id = ANY (which)
                       AND status = 'open' AND payment_id IS NOT NULL AND payment_id <> ALL (locked)) THEN
                RAISE EXCEPTION USING ERRCODE = 'CS904';
            END IF;
            again := false;
        EXCEPTION WHEN SQLSTATE 'CS904' THEN
            again := true;
        END;
        EXIT WHEN NOT again;
    END LOOP;
    IF again THEN
        PERFORM refuse_{{v}}('subscription_charge_in_progress');
    END IF;
    FOR s IN SELECT * FROM subscriptions WHERE tenant_id = tenant AND live = is_live AND subscription_id = ANY (which)
             AND ended_at IS NULL ORDER BY subscription_id LOOP
        s := subscription_end_{{v}}(p, s, 'canceled', at_, p->>'reason');
        IF p->>'invoices' <> 'void' THEN
            CONTINUE;
        END IF;
        FOR i IN SELECT * FROM invoices WHERE tenant_id = tenant AND live = is_live AND subscription_id = s.subscription_id
                 AND status = 'open' ORDER BY invoice_id FOR NO KEY UPDATE LOOP
            UPDATE invoices SET status = 'void', closed_at = at_, sequence = sequence + 1, updated_at = at_
            WHERE tenant_id = tenant AND live = is_live AND invoice_id = i.invoice_id RETURNING * INTO i;
            UPDATE subscriptions SET credit_minor = credit_minor + i.credit_used_minor
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = s.subscription_id AND i.credit_used_minor > 0;
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'void ' || i.invoice_id), 'invoice.voided', 'invoice', i.invoice_id,
                i.sequence, i.customer_id, jsonb_build_object('subscription_id', i.subscription_id, 'status', i.status,
                'number', i.number, 'amount_minor', i.due_minor, 'currency', i.currency));
            SELECT * INTO pay FROM payment_intents WHERE tenant_id = tenant AND live = is_live AND payment_id = i.payment_id;
            before := pay.status;
            IF pay.status IN ('processing', 'requires_action') AND pay.cancel_requested_at IS NULL THEN
                -- Nobody knows yet whether it is charged: what succeeds late is given back.
                pay.cancel_requested_at := moment;
                pay.cancel_request_reason := 'invoice_void';
                pay.unwind_at := CASE pay.status WHEN 'requires_action' THEN moment END;
                pay := payment_store_{{v}}(pay, moment);
                PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'give back ' || pay.payment_id), 'payment.cancel_requested', 'payment',
                    pay.payment_id, pay.sequence, pay.customer_id, jsonb_build_object('status', pay.status, 'operation_id',
                    pay.charge_operation_id, 'amount_minor', pay.amount_minor, 'currency', pay.currency));
            ELSIF pay.status IN ('requires_payment_method', 'requires_confirmation') THEN
                pay.canceled_at := moment;
                pay.cancellation_reason := 'invoice_void';
                pay := payment_store_{{v}}(payment_derive_{{v}}(pay), moment);
                PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, 'canceled ' || pay.payment_id), 'payment.canceled', 'payment',
                    pay.payment_id, pay.sequence, pay.customer_id, jsonb_build_object('status_before', before, 'status', pay.status,
                    'amount_minor', pay.amount_minor, 'currency', pay.currency));
            END IF;
        END LOOP;
    END LOOP;
    RETURN to_jsonb(which);
END $$;

-- Subscriptions that waited for this mandate and for no payment begin.
CREATE OR REPLACE FUNCTION subscriptions_verified_{{v}}(p jsonb, m mandates, at_ timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s subscriptions;
BEGIN
    FOR s IN SELECT * FROM subscriptions WHERE tenant_id = m.tenant_id AND live = m.live AND mandate_id = m.mandate_id
             AND status = 'incomplete' ORDER BY subscription_id FOR NO KEY UPDATE LOOP
        CONTINUE WHEN EXISTS (SELECT FROM invoices WHERE tenant_id = s.tenant_id AND live = s.live
            AND subscription_id = s.subscription_id AND status = 'open' AND collection = 'automatic');
        UPDATE subscriptions SET status = CASE WHEN trial_end_at > at_ THEN 'trialing' ELSE 'active' END, incomplete_until = NULL,
            next_at = least(current_period_end, cancel_at), sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
        PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, s.subscription_id || ' ' || s.sequence),
            'subscription.activated', 'subscription', s.subscription_id, s.sequence, s.customer_id,
            jsonb_build_object('status_before', 'incomplete', 'status', s.status, 'mandate_id', m.mandate_id));
    END LOOP;
END $$;
