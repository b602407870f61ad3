-- The scheduler: what is due becomes invoices, set by set, in the transaction that also moves the next date.
--
--   subscription_period    where period k begins (models.period_start is the same in Python)
--   subscriptions_plan     one batch of one tenant: claim, invoice, lines, rebill, journal, next date
--
-- Any number of schedulers may call it at once: FOR UPDATE SKIP LOCKED, and one_invoice_per_period behind it. A period that was missed
-- gets its own invoice; the driver calls again until nothing is due.
--
-- Rounding: every amount is rounded once, half away from zero, where it is made (a prorated line, a line's share of a percentage, a
-- line's tax); every sum is a sum of rounded amounts, so it is exact. An amount off the invoice is spread over its lines by running
-- totals, so that the shares add up.

-- A number as it is printed: at least six digits. lpad alone would cut the seventh off, and the millionth would be the hundred thousandth
-- again.
CREATE OR REPLACE FUNCTION document_number_{{v}}(prefix text, taken bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT prefix || lpad(taken::text, greatest(6, length(taken::text)), '0');
$$;

CREATE OR REPLACE FUNCTION subscription_period_{{v}}(anchor timestamp, zone text, unit text, count integer, k integer)
RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (anchor + CASE unit WHEN 'day' THEN make_interval(days => count * k) WHEN 'week' THEN make_interval(days => 7 * count * k)
                               WHEN 'month' THEN make_interval(months => count * k) ELSE make_interval(months => 12 * count * k) END)
           AT TIME ZONE zone;
$$;

-- An id that sorts by time and is a pure function of what it is for: planning twice makes the same row twice.
CREATE OR REPLACE FUNCTION id_at_{{v}}(moment timestamptz, meant text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3)
            || substr('89ab', 1 + ('x' || substr(h, 4, 1))::bit(4)::integer % 4, 1) || substr(h, 5, 15))::uuid
    FROM (SELECT md5(meant) AS h) AS hashed;
$$;

-- End a subscription: no later invoice, retry or notice. What is under way at a PSP resolves by itself.
CREATE OR REPLACE FUNCTION subscription_end_{{v}}(p jsonb, s subscriptions, after text, at timestamptz, because text)
RETURNS subscriptions LANGUAGE plpgsql AS $$
DECLARE
    before text := s.status;
BEGIN
    UPDATE subscriptions SET status = after, ended_at = at, canceled_at = COALESCE(canceled_at, at), next_at = NULL,
        cancellation_reason = COALESCE(cancellation_reason, because), pending_change = NULL, paused_at = NULL, resume_at = NULL,
        status_before_pause = NULL, sequence = sequence + 1, updated_at = at
    WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id RETURNING * INTO s;
    PERFORM rebills_stop_{{v}}(p, s, at, CASE after WHEN 'canceled' THEN 'subscription_canceled' ELSE after END);
    UPDATE notices SET state = 'dropped', due_at = NULL, error = 'subscription_' || after, updated_at = at
    WHERE tenant_id = s.tenant_id AND live = s.live AND subscription_id = s.subscription_id AND state = 'queued'
      AND kind IN ('reminder', 'payment_failed', 'action_needed', 'card_expiring', 'trial_ending', 'pre_debit');
    IF after = 'canceled' AND because IS DISTINCT FROM 'customer_deleted' THEN
        PERFORM notice_queue_{{v}}(p, 'subscription_canceled', s.customer_id, s.subscription_id, NULL,
                                   'subscription_canceled:' || s.subscription_id, at, s.test_clock_id);
    END IF;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, s.subscription_id || ' ' || s.sequence),
        CASE after WHEN 'canceled' THEN 'subscription.canceled' ELSE 'subscription.incomplete_expired' END, 'subscription',
        s.subscription_id, s.sequence, s.customer_id, jsonb_strip_nulls(jsonb_build_object('status_before', before, 'status', s.status, 'reason', because, 'at', at)));
    RETURN s;
END $$;

-- Whether the next thing that happens to a due subscription is that another period begins.
CREATE OR REPLACE FUNCTION subscription_plain_{{v}}(s subscriptions) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT s.status IN ('trialing', 'active', 'past_due') AND s.pending_change IS NULL AND NOT s.cancel_at_period_end
           AND (s.cancel_at IS NULL OR s.cancel_at > s.next_at) AND s.next_at >= s.current_period_end;
$$;

-- Lock a batch of what is due, oldest first, passing over what another scheduler holds. plain: renewals and ends of trials; the others are
-- those that need more than that. Statements of their own, because each has its own partial index.
CREATE OR REPLACE FUNCTION subscriptions_claim_{{v}}(tenant uuid, is_live boolean, clock uuid, at_ timestamptz, most integer,
                                                     plain boolean) RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    IF clock IS NOT NULL THEN
        RETURN (SELECT array_agg(subscription_id) FROM (
            SELECT subscription_id FROM subscriptions s
            WHERE tenant_id = tenant AND live = is_live AND next_at <= at_ AND test_clock_id = clock
              AND subscription_plain_{{v}}(s) = plain
            ORDER BY next_at, subscription_id LIMIT most FOR NO KEY UPDATE SKIP LOCKED) AS due);
    ELSIF plain THEN
        RETURN (SELECT array_agg(subscription_id) FROM (
            SELECT subscription_id FROM subscriptions s
            WHERE tenant_id = tenant AND live = is_live AND next_at <= at_ AND test_clock_id IS NULL AND subscription_plain_{{v}}(s)
            ORDER BY next_at, subscription_id LIMIT most FOR NO KEY UPDATE SKIP LOCKED) AS due);
    END IF;
    RETURN (SELECT array_agg(subscription_id) FROM (
        SELECT subscription_id FROM subscriptions s
        WHERE tenant_id = tenant AND live = is_live AND next_at <= at_ AND test_clock_id IS NULL
          AND (status IN ('incomplete', 'paused', 'unpaid') OR cancel_at IS NOT NULL OR cancel_at_period_end
               OR pending_change IS NOT NULL OR next_at < current_period_end) -- as subscriptions_due_specially
          AND NOT subscription_plain_{{v}}(s)
        ORDER BY next_at, subscription_id LIMIT most FOR NO KEY UPDATE SKIP LOCKED) AS due);
END $$;

-- One batch of one tenant and mode, at the moment p->>'at' (a test clock's time when p->>'test_clock_id' names one).
-- p: tenant_id, live, now, at, most, test_clock_id|null, actor and request as everywhere.
-- Returns {"planned": invoices made, "handled": subscriptions moved on; 0 means that nothing is due}.
CREATE OR REPLACE FUNCTION subscriptions_plan_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan AS $$ -- a plan that knows how large the batch is
#variable_conflict use_column
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    at_ timestamptz := (p->>'at')::timestamptz;
    clock uuid := (p->>'test_clock_id')::uuid;
    most integer := (p->>'most')::integer;
    sub subscriptions;
    handled integer := 0;
    planned integer := 0;
    own billing_settings;
    period timestamptz;
    next_no integer;
    claimed uuid[];
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    INSERT INTO billing_settings (tenant_id, live, updated_at) VALUES (tenant, is_live, moment) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT own FROM billing_settings WHERE tenant_id = tenant AND live = is_live;

    -- What is not a plain renewal, one by one: ends, ends of pauses, changes that waited for the period's end.
    claimed := subscriptions_claim_{{v}}(tenant, is_live, clock, at_, most, false);
    FOR sub IN
        SELECT * FROM subscriptions
        WHERE tenant_id = tenant AND live = is_live
          AND subscription_id = ANY (claimed)
        ORDER BY next_at, subscription_id
    LOOP
        handled := handled + 1;
        IF sub.status = 'incomplete' AND EXISTS (
            SELECT FROM invoices WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id
              AND status = 'open' AND payment_locked) THEN
            -- Its first payment waits for the customer, or nobody knows how it went: it may still begin.
            UPDATE subscriptions SET next_at = at_ + CASE WHEN clock IS NULL THEN interval '1 hour' ELSE interval '1 day' END
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id;
        ELSIF sub.status = 'incomplete' THEN
            PERFORM subscription_end_{{v}}(p, sub, 'incomplete_expired', sub.next_at, 'first_payment_missing');
            UPDATE invoices SET status = 'void', closed_at = sub.next_at, sequence = sequence + 1, updated_at = sub.next_at
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id AND status = 'open'
              AND NOT payment_locked;
        ELSIF sub.cancel_at <= sub.next_at OR (sub.cancel_at_period_end AND sub.current_period_end <= sub.next_at) THEN
            PERFORM subscription_end_{{v}}(p, sub, 'canceled', sub.next_at, sub.cancellation_reason);
        ELSIF sub.status IN ('paused', 'unpaid') THEN
            -- Nothing is billed; a pause that ends begins a new period where the calendar says.
            next_no := sub.period_no + 1;
            period := subscription_period_{{v}}(sub.anchor_local, sub.time_zone, sub.interval_unit, sub.interval_count, next_no + 1);
            IF sub.status = 'paused' AND sub.resume_at <= sub.next_at THEN
                -- On the boundary itself the plain renewal below bills the period that begins.
                UPDATE subscriptions SET status = status_before_pause, paused_at = NULL, resume_at = NULL, status_before_pause = NULL,
                    next_at = least(current_period_end, cancel_at), sequence = sequence + 1, updated_at = moment
                WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id RETURNING * INTO sub;
                PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, sub.subscription_id || ' ' || sub.sequence), 'subscription.resumed',
                    'subscription', sub.subscription_id, sub.sequence, sub.customer_id, jsonb_build_object('status', sub.status));
            ELSE
                UPDATE subscriptions SET period_no = next_no, current_period_start = current_period_end, current_period_end = period,
                    next_at = least(period, cancel_at, CASE WHEN sub.status = 'paused' AND resume_at > sub.next_at THEN resume_at END),
                    updated_at = moment
                WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id;
            END IF;
        ELSIF sub.pending_change IS NOT NULL AND sub.current_period_end <= sub.next_at THEN
            DELETE FROM subscription_items WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id;
            INSERT INTO subscription_items (tenant_id, live, subscription_id, item_id, position, plan_id, description, quantity,
                                            unit_amount_minor, tax)
            SELECT tenant, is_live, sub.subscription_id, (i->>'item_id')::uuid, n, (i->>'plan_id')::uuid, i->>'description',
                   (i->>'quantity')::integer, (i->>'unit_amount_minor')::bigint, NULLIF(i->'tax', 'null')
            FROM jsonb_array_elements(sub.pending_change->'items') WITH ORDINALITY AS t(i, n);
            -- Another interval begins its own count of periods here, with the plain renewal below.
            UPDATE subscriptions SET pending_change = NULL, sequence = sequence + 1, updated_at = moment,
                interval_unit = COALESCE(sub.pending_change->>'interval_unit', interval_unit),
                interval_count = COALESCE((sub.pending_change->>'interval_count')::integer, interval_count),
                anchor_local = CASE WHEN sub.pending_change ? 'interval_unit' THEN current_period_end AT TIME ZONE time_zone
                                    ELSE anchor_local END,
                period_no = CASE WHEN sub.pending_change ? 'interval_unit' THEN -1 ELSE period_no END
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id RETURNING * INTO sub;
            PERFORM journal_write_{{v}}(p, id_at_{{v}}(moment, sub.subscription_id || ' ' || sub.sequence), 'subscription.changed',
                'subscription', sub.subscription_id, sub.sequence, sub.customer_id, jsonb_build_object('status', sub.status));
        ELSE
            UPDATE subscriptions SET next_at = least(current_period_end, cancel_at)
            WHERE tenant_id = tenant AND live = is_live AND subscription_id = sub.subscription_id;
        END IF;
    END LOOP;

    -- Plain renewals and ends of trials, all at once.
    claimed := subscriptions_claim_{{v}}(tenant, is_live, clock, at_, most, true);
    WITH due AS MATERIALIZED (
        SELECT s.*, s.period_no + 1 AS k, s.current_period_end AS starts,
               subscription_period_{{v}}(s.anchor_local, s.time_zone, s.interval_unit, s.interval_count, s.period_no + 1) AS begins,
               subscription_period_{{v}}(s.anchor_local, s.time_zone, s.interval_unit, s.interval_count, s.period_no + 2) AS ends,
               s.coupon_id IS NOT NULL AND COALESCE(s.discount_periods_left, 1) > 0 AS discounted,
               id_at_{{v}}(s.current_period_end, 'invoice ' || s.subscription_id || ' ' || (s.period_no + 1)) AS invoice_id
        FROM subscriptions s
        WHERE s.tenant_id = tenant AND s.live = is_live AND s.subscription_id = ANY (claimed)
    ), priced AS (
        SELECT d.invoice_id, d.subscription_id, d.discounted, d.starts, d.ends, i.position, i.plan_id, i.description, i.quantity,
               i.unit_amount_minor, i.tax,
               CASE WHEN d.starts = d.begins THEN i.quantity * i.unit_amount_minor
                    ELSE round(i.quantity * i.unit_amount_minor * extract(epoch FROM d.ends - d.starts)
                               / extract(epoch FROM d.ends - d.begins))::bigint END AS amount,
               c.percent_bp, (c.amounts->>d.currency)::bigint AS off
        FROM due d
        JOIN subscription_items i ON i.tenant_id = tenant AND i.live = is_live AND i.subscription_id = d.subscription_id
        LEFT JOIN coupons c ON d.discounted AND c.tenant_id = tenant AND c.live = is_live AND c.coupon_id = d.coupon_id
    ), reduced AS (
        SELECT *, CASE WHEN NOT discounted OR whole = 0 THEN 0
                       WHEN percent_bp IS NOT NULL THEN round(amount::numeric * percent_bp / 10000)::bigint
                       ELSE div(least(off, whole)::numeric * upto, whole)::bigint
                            - div(least(off, whole)::numeric * (upto - amount), whole)::bigint END AS discount
        FROM (SELECT *, sum(amount) OVER invoice AS whole,
                     sum(amount) OVER (invoice ORDER BY position) AS upto
              FROM priced WINDOW invoice AS (PARTITION BY invoice_id)) AS summed
    ), taxed AS (
        SELECT *, (tax->>'rate_bp')::integer AS rate, COALESCE((tax->>'inclusive')::boolean, true) AS inclusive,
               CASE WHEN tax IS NULL THEN 0
                    ELSE round((amount - discount)::numeric * (tax->>'rate_bp')::integer
                         / (10000 + CASE WHEN COALESCE((tax->>'inclusive')::boolean, true) THEN (tax->>'rate_bp')::integer
                                         ELSE 0 END))::bigint END AS tax_minor
        FROM reduced
    ), summed AS (
        SELECT invoice_id, COALESCE(sum(amount), 0)::bigint AS subtotal, COALESCE(sum(discount), 0)::bigint AS discount,
               COALESCE(sum(tax_minor), 0)::bigint AS tax, COALESCE(sum(tax_minor) FILTER (WHERE NOT inclusive), 0)::bigint AS added
        FROM taxed GROUP BY invoice_id
    ), counted AS (
        -- The numbers have no gaps: the counter moves in this transaction, so planners of one tenant take turns here.
        UPDATE billing_settings SET invoice_next = invoice_next + (SELECT count(*) FROM due)
        WHERE tenant_id = tenant AND live = is_live AND EXISTS (SELECT FROM due)
        RETURNING invoice_next - (SELECT count(*) FROM due) AS first
    ), ready AS (
        SELECT d.*, COALESCE(t.subtotal, 0) AS subtotal, COALESCE(t.discount, 0) AS discount_minor, COALESCE(t.tax, 0) AS tax_minor,
               COALESCE(t.added, 0) AS added, COALESCE(t.subtotal - t.discount + t.added, 0) AS total,
               least(d.credit_minor, COALESCE(t.subtotal - t.discount + t.added, 0)) AS credit,
               document_number_{{v}}(own.invoice_prefix, (SELECT first FROM counted)
                   + row_number() OVER (ORDER BY d.current_period_end, d.subscription_id) - 1) AS number,
               -- A period that is over already was missed: it is billed and, unless the tenant chose so, not charged.
               CASE WHEN d.ends <= at_ AND own.catch_up = 'newest' THEN 'held' ELSE 'automatic' END AS collection
        FROM due d LEFT JOIN summed t USING (invoice_id)
    ), made AS (
        INSERT INTO invoices (tenant_id, live, invoice_id, customer_id, subscription_id, number, status, reason, collection, currency,
            period_start, period_end, subtotal_minor, discount_minor, tax_minor, tax_added_minor, total_minor, credit_used_minor,
            due_minor, coupon_id, test_clock_id, created_at, updated_at, opened_at, paid_at)
        SELECT tenant, is_live, invoice_id, customer_id, subscription_id, number,
               CASE WHEN total = credit THEN 'paid' ELSE 'open' END, 'cycle', collection, currency, starts, ends, subtotal,
               discount_minor, tax_minor, added, total, credit, total - credit, CASE WHEN discounted THEN coupon_id END,
               test_clock_id, at_, at_, at_, CASE WHEN total = credit THEN at_ END
        FROM ready RETURNING *
    ), lined AS (
        INSERT INTO invoice_lines (tenant_id, live, invoice_id, position, kind, plan_id, description, quantity, unit_amount_minor,
            amount_minor, discount_minor, tax_name, tax_rate_bp, tax_inclusive, tax_minor, period_start, period_end)
        SELECT tenant, is_live, invoice_id, position, 'period', plan_id, description, quantity, unit_amount_minor, amount, discount,
               tax->>'name', rate, inclusive, tax_minor, starts, ends
        FROM taxed
    ), collected AS (
        INSERT INTO rebills (tenant_id, live, invoice_id, subscription_id, psp_account_id, state, next_at, test_clock_id, created_at,
                             updated_at)
        SELECT tenant, is_live, invoice_id, subscription_id, psp_account_id, CASE WHEN mandate_id IS NULL THEN 'decide' ELSE 'due' END,
               at_, test_clock_id, at_, at_
        FROM ready WHERE total > credit AND collection = 'automatic'
    ), moved AS (
        UPDATE subscriptions s SET
            status = CASE WHEN s.status = 'trialing' THEN 'active' ELSE s.status END, period_no = r.k, current_period_start = r.starts,
            current_period_end = r.ends, next_at = least(r.ends, r.cancel_at), credit_minor = s.credit_minor - r.credit,
            discount_periods_left = CASE WHEN r.discounted THEN s.discount_periods_left - 1 ELSE s.discount_periods_left END,
            sequence = s.sequence + 1, updated_at = at_
        FROM ready r
        WHERE s.tenant_id = tenant AND s.live = is_live AND s.subscription_id = r.subscription_id
    ), told AS (
        INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, customer_id, actor_type, actor_id,
                             request_id, data, at)
        SELECT tenant, is_live, id_at_{{v}}(moment, 'opened ' || m.invoice_id),
               CASE m.status WHEN 'paid' THEN 'invoice.paid' ELSE 'invoice.opened' END, 'invoice', m.invoice_id, 1, m.customer_id,
               p->>'actor_type', p->>'actor_id', p->>'request_id',
               jsonb_build_object('subscription_id', m.subscription_id, 'status', m.status, 'reason', m.reason, 'number', m.number,
                   'amount_minor', m.due_minor, 'currency', m.currency, 'collection', m.collection), moment
        FROM made m ORDER BY m.number
    ), begun AS (
        INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, customer_id, actor_type, actor_id,
                             request_id, data, at)
        SELECT tenant, is_live, id_at_{{v}}(moment, 'activated ' || r.invoice_id), 'subscription.activated', 'subscription',
               r.subscription_id, r.sequence + 1, r.customer_id, p->>'actor_type', p->>'actor_id', p->>'request_id',
               jsonb_build_object('status_before', 'trialing', 'status', 'active'), moment
        FROM ready r WHERE r.status = 'trialing'
    )
    SELECT count(*) INTO planned FROM ready;
    RETURN jsonb_build_object('planned', planned, 'handled', handled + planned);
END $$;
