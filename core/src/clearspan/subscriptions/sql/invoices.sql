-- What people do with invoices, each in one transaction.
--
--   invoice_open            a draft gets its number
--   invoice_close           void or uncollectible: nothing collects it any more
--   credit_note_write       take an invoice back, in whole or in part
--   credit_note_refund      the same, with the refund's operation reserved in the same transaction
--
-- Lock order: payment, subscription, invoice, rebill; the counters of billing_settings last, for the shortest time.

-- Lock an invoice after its subscription.
CREATE OR REPLACE FUNCTION invoice_lock_{{v}}(p jsonb, OUT i invoices, OUT s subscriptions) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT x.* INTO s FROM subscriptions x JOIN invoices y USING (tenant_id, live, subscription_id)
    WHERE y.tenant_id = (p->>'tenant_id')::uuid AND y.live = (p->>'live')::boolean AND y.invoice_id = (p->>'invoice_id')::uuid
    FOR NO KEY UPDATE OF x;
    SELECT * INTO i FROM invoices
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND invoice_id = (p->>'invoice_id')::uuid
    FOR NO KEY UPDATE;
END $$;

-- The time at which things happen to an invoice: its test clock's, else p->>'now'.
CREATE OR REPLACE FUNCTION invoice_time_{{v}}(p jsonb, i invoices) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT now_at FROM test_clocks WHERE tenant_id = i.tenant_id AND live = i.live AND test_clock_id = i.test_clock_id),
                    (p->>'now')::timestamptz);
$$;

-- The next number of a kind. The counter's row stays locked until the end of the transaction: a number that is rolled back is taken
-- by the next one, so there is no gap and no double.
CREATE OR REPLACE FUNCTION next_number_{{v}}(p jsonb, kind text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    own billing_settings;
BEGIN
    INSERT INTO billing_settings (tenant_id, live, updated_at)
    VALUES ((p->>'tenant_id')::uuid, (p->>'live')::boolean, (p->>'now')::timestamptz) ON CONFLICT DO NOTHING;
    UPDATE billing_settings SET
        invoice_next = invoice_next + CASE kind WHEN 'invoice' THEN 1 ELSE 0 END,
        credit_note_next = credit_note_next + CASE kind WHEN 'credit_note' THEN 1 ELSE 0 END
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean RETURNING * INTO STRICT own;
    RETURN CASE kind WHEN 'invoice' THEN document_number_{{v}}(own.invoice_prefix, own.invoice_next - 1)
                     ELSE document_number_{{v}}(own.credit_note_prefix, own.credit_note_next - 1) END;
END $$;

CREATE OR REPLACE FUNCTION invoice_told_{{v}}(p jsonb, i invoices, what text, more jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, what || ' ' || i.invoice_id || ' ' || i.sequence), what, 'invoice',
        i.invoice_id, i.sequence, i.customer_id, jsonb_strip_nulls(jsonb_build_object('subscription_id', i.subscription_id,
        'number', i.number, 'status', i.status, 'amount_minor', i.due_minor, 'currency', i.currency)) || more);
END $$;

CREATE OR REPLACE FUNCTION invoice_open_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    i invoices;
    at_ timestamptz;
BEGIN
    SELECT (l.i).* INTO i FROM invoice_lock_{{v}}(p) AS l;
    IF i.status <> 'draft' THEN
        PERFORM refuse_{{v}}('invoice_not_in_status', jsonb_build_object('invoice_status', i.status));
    END IF;
    at_ := invoice_time_{{v}}(p, i);
    UPDATE invoices SET status = CASE WHEN due_minor = 0 THEN 'paid' ELSE 'open' END, number = next_number_{{v}}(p, 'invoice'),
        opened_at = at_, paid_at = CASE WHEN due_minor = 0 THEN at_ END, sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id RETURNING * INTO i;
    PERFORM invoice_told_{{v}}(p, i, CASE i.status WHEN 'paid' THEN 'invoice.paid' ELSE 'invoice.opened' END);
    RETURN 'null';
END $$;

-- Queue the mail with the invoice.
CREATE OR REPLACE FUNCTION invoice_send_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    i invoices;
BEGIN
    SELECT (l.i).* INTO i FROM invoice_lock_{{v}}(p) AS l;
    PERFORM notice_queue_{{v}}(p, 'invoice', i.customer_id, i.subscription_id, i.invoice_id, p->>'dedupe', invoice_time_{{v}}(p, i),
                               i.test_clock_id);
    RETURN 'null';
END $$;

-- p->>'after': void or uncollectible.
CREATE OR REPLACE FUNCTION invoice_close_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    i invoices;
    s subscriptions;
    before text;
    after text := p->>'after';
    at_ timestamptz;
BEGIN
    SELECT (l.i).* INTO i FROM invoice_lock_{{v}}(p) AS l;
    SELECT * INTO s FROM subscriptions
    WHERE tenant_id = i.tenant_id AND live = i.live AND subscription_id = i.subscription_id;
    before := i.status;
    at_ := invoice_time_{{v}}(p, i);
    IF i.payment_locked THEN
        PERFORM refuse_{{v}}('invoice_payment_locked', jsonb_build_object('invoice_status', i.status));
    ELSIF i.status = after OR NOT invoice_may_become(i.status, after) THEN
        PERFORM refuse_{{v}}('invoice_not_in_status', jsonb_build_object('invoice_status', i.status));
    END IF;
    UPDATE invoices SET status = after, closed_at = at_, sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id RETURNING * INTO i;
    UPDATE rebills SET state = 'stopped', next_at = NULL, lease_token = NULL, stopped_because = 'invoice_' || after,
        sequence = sequence + 1, updated_at = at_
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id AND state IN ('due', 'claimed', 'decide', 'waiting');
    UPDATE notices SET state = 'dropped', due_at = NULL, error = 'invoice_' || after, updated_at = at_
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id AND state = 'queued'
      AND kind IN ('invoice', 'reminder', 'payment_failed', 'action_needed', 'pre_debit');
    PERFORM invoice_told_{{v}}(p, i, CASE after WHEN 'void' THEN 'invoice.voided' ELSE 'invoice.marked_uncollectible' END,
                               jsonb_build_object('status_before', before));
    -- What the invoice had used up of the customer's credit is owed again.
    IF after = 'void' AND i.credit_used_minor > 0 AND s.subscription_id IS NOT NULL THEN
        UPDATE subscriptions SET credit_minor = credit_minor + i.credit_used_minor, updated_at = at_
        WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id;
    END IF;
    IF after = 'void' AND s.status IN ('past_due', 'unpaid') AND NOT EXISTS (
        SELECT FROM rebills r JOIN invoices o USING (tenant_id, live, invoice_id)
        WHERE r.tenant_id = s.tenant_id AND r.live = s.live AND r.subscription_id = s.subscription_id AND o.status = 'open'
          AND r.first_failed_at IS NOT NULL) THEN
        UPDATE subscriptions SET status = 'active', sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id;
        PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'recovered ' || i.invoice_id), 'subscription.recovered',
            'subscription', s.subscription_id, s.sequence + 1, s.customer_id,
            jsonb_build_object('status_before', s.status, 'status', 'active', 'invoice_id', i.invoice_id));
    END IF;
    RETURN 'null';
END $$;

-- p->'credit_note': {credit_note_id, amount_minor, tax_minor, settled_by, refund_id|null, reason, metadata}.
CREATE OR REPLACE FUNCTION credit_note_write_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    i invoices;
    s subscriptions;
    c jsonb := p->'credit_note';
    way text := c->>'settled_by';
    amount bigint := (c->>'amount_minor')::bigint;
    left_minor bigint;
    left_tax bigint;
    number text;
    at_ timestamptz;
BEGIN
    SELECT (l.i).* INTO i FROM invoice_lock_{{v}}(p) AS l;
    SELECT * INTO s FROM subscriptions
    WHERE tenant_id = i.tenant_id AND live = i.live AND subscription_id = i.subscription_id;
    at_ := invoice_time_{{v}}(p, i);
    IF i.payment_locked THEN
        PERFORM refuse_{{v}}('invoice_payment_locked', jsonb_build_object('invoice_status', i.status));
    ELSIF i.status NOT IN ('open', 'uncollectible', 'paid') THEN
        PERFORM refuse_{{v}}('invoice_not_in_status', jsonb_build_object('invoice_status', i.status));
    ELSIF way = 'reduction' AND i.status = 'paid' THEN
        PERFORM refuse_{{v}}('credit_note_not_possible', jsonb_build_object('because', 'already_paid'));
    ELSIF way = 'reduction' AND i.payment_id IS NOT NULL THEN
        PERFORM refuse_{{v}}('credit_note_not_possible', jsonb_build_object('because', 'payment_exists'));
    ELSIF way <> 'reduction' AND i.status <> 'paid' THEN
        PERFORM refuse_{{v}}('credit_note_not_possible', jsonb_build_object('because', 'not_paid'));
    ELSIF way = 'credit' AND (s.subscription_id IS NULL OR s.ended_at IS NOT NULL) THEN
        PERFORM refuse_{{v}}('credit_note_not_possible', jsonb_build_object('because', 'no_subscription'));
    END IF;
    -- An open invoice cannot be taken below what is due; of a paid one all may be given back, what was paid by credit too.
    left_minor := CASE way WHEN 'credit' THEN i.total_minor ELSE i.due_minor END - i.credited_minor;
    SELECT i.tax_minor - COALESCE(sum(n.tax_minor), 0) INTO left_tax FROM credit_notes n
    WHERE n.tenant_id = i.tenant_id AND n.live = i.live AND n.invoice_id = i.invoice_id;
    IF amount > left_minor OR (c->>'tax_minor')::bigint > left_tax THEN
        PERFORM refuse_{{v}}('credit_note_above_invoice', jsonb_build_object('creditable_minor', greatest(left_minor, 0),
            'creditable_tax_minor', left_tax));
    END IF;
    number := next_number_{{v}}(p, 'credit_note');
    INSERT INTO credit_notes (tenant_id, live, credit_note_id, invoice_id, number, amount_minor, tax_minor, currency, settled_by,
                              refund_id, reason, metadata, created_at)
    VALUES (i.tenant_id, i.live, (c->>'credit_note_id')::uuid, i.invoice_id, number, amount, (c->>'tax_minor')::bigint, i.currency, way,
            (c->>'refund_id')::uuid, c->>'reason', c->'metadata', at_);
    UPDATE invoices SET credited_minor = credited_minor + amount, sequence = sequence + 1, updated_at = at_,
        status = CASE WHEN way = 'reduction' AND amount = left_minor THEN 'paid' ELSE status END,
        paid_at = CASE WHEN way = 'reduction' AND amount = left_minor THEN at_ ELSE paid_at END
    WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id RETURNING * INTO i;
    IF way = 'credit' THEN
        UPDATE subscriptions SET credit_minor = credit_minor + amount, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id;
    ELSIF way = 'reduction' AND i.status = 'paid' THEN -- nothing is left to collect
        UPDATE rebills SET state = 'settled', next_at = NULL, lease_token = NULL, sequence = sequence + 1, updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id;
        UPDATE notices SET state = 'dropped', due_at = NULL, error = 'invoice_paid', updated_at = at_
        WHERE tenant_id = i.tenant_id AND live = i.live AND invoice_id = i.invoice_id AND state = 'queued'
          AND kind IN ('invoice', 'reminder', 'payment_failed', 'action_needed', 'pre_debit');
        PERFORM invoice_told_{{v}}(p, i, 'invoice.paid', '{"amount_minor": 0}');
    END IF;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'credit note ' || (c->>'credit_note_id')), 'credit_note.created',
        'credit_note', (c->>'credit_note_id')::uuid, 1, i.customer_id, jsonb_strip_nulls(jsonb_build_object(
        'invoice_id', i.invoice_id, 'number', number, 'amount_minor', amount, 'currency', i.currency, 'settled_by', way,
        'refund_id', c->>'refund_id')));
    INSERT INTO notices (tenant_id, live, notice_id, kind, customer_id, subscription_id, invoice_id, credit_note_id, dedupe, due_at,
                         test_clock_id, created_at, updated_at)
    VALUES (i.tenant_id, i.live, id_at_{{v}}(at_, 'notice credit_note:' || (c->>'credit_note_id')), 'credit_note', i.customer_id,
            i.subscription_id, i.invoice_id, (c->>'credit_note_id')::uuid, 'credit_note:' || (c->>'credit_note_id'), at_,
            i.test_clock_id, (p->>'now')::timestamptz, (p->>'now')::timestamptz)
    ON CONFLICT DO NOTHING;
    RETURN 'null';
END $$;

-- As operation_open (want: refund), whose answer it gives; the credit note is written with it. The refund's operation is committed
-- before anything is sent, so a crash in between leaves it to recovery.
CREATE OR REPLACE FUNCTION credit_note_refund_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    opened jsonb := operation_open_{{v}}(p);
BEGIN
    IF opened ? 'operation' THEN
        PERFORM credit_note_write_{{v}}(p);
    END IF;
    RETURN opened;
END $$;

-- The customer agreed on the pay page that the card is kept for the subscription: a mandate that waits for this payment. Doing it
-- again changes nothing.
CREATE OR REPLACE FUNCTION pay_mandate_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    INSERT INTO mandates (tenant_id, live, mandate_id, customer_id, payment_method_id, purpose, text_version, accepted_at, created_at,
                          updated_at)
    VALUES ((p->>'tenant_id')::uuid, (p->>'live')::boolean, (p->>'mandate_id')::uuid, (p->>'customer_id')::uuid,
            (p->>'payment_method_id')::uuid, 'recurring', p->>'text_version', (p->>'at')::timestamptz, (p->>'at')::timestamptz,
            (p->>'at')::timestamptz)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'mandate ' || (p->>'mandate_id')), 'mandate.created', 'mandate',
            (p->>'mandate_id')::uuid, 1, (p->>'customer_id')::uuid, jsonb_build_object('status', 'pending',
            'payment_method_id', p->>'payment_method_id', 'text_version', p->>'text_version'));
    END IF;
    RETURN 'null';
END $$;
