-- Work that waits for people: what is in each queue, what is done about one thing, and bulk runs over many.
--
-- A queue shows rows of other tables by their state; nothing is copied. Everything is in the order of ids, so that a page or a run goes on
-- after an id and meets each row once, also when a row it has dealt with comes back.

-- Up to `most` rows of a queue after an id, in the order of ids: what, in which state, since when, when it is tried next by itself, the last
-- error as code and note, and what it is about. f narrows: {ids, state, account, endpoint, kind, before, until}; absent means any. `until` is
-- when a run was asked for: what came later is not a part of it.
CREATE OR REPLACE FUNCTION desk_rows_{{v}}(p jsonb, after_id uuid, most integer)
RETURNS TABLE (id uuid, kind text, state text, since timestamptz, next_at timestamptz, code text, note text, about jsonb)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    f jsonb := COALESCE(p->'filter', '{}');
    low uuid := COALESCE(after_id, '00000000-0000-0000-0000-000000000000');
    wanted uuid[] := CASE WHEN f ? 'ids' THEN ARRAY(SELECT jsonb_array_elements_text(f->'ids')::uuid) END;
    of_state text := f->>'state';
    of_kind text := f->>'kind';
    account uuid := (f->>'account')::uuid;
    endpoint uuid := (f->>'endpoint')::uuid;
    upto timestamptz := least(COALESCE((f->>'before')::timestamptz, 'infinity'), COALESCE((f->>'until')::timestamptz, 'infinity'));
BEGIN
    CASE p->>'queue'
    WHEN 'unknown' THEN
        RETURN QUERY SELECT o.operation_id, o.kind, o.state, o.created_at, o.sweep_at, o.code, o.raw_code,
            jsonb_build_object('payment_id', o.payment_id, 'amount_minor', o.amount_minor, 'currency', o.currency,
                               'psp_account_id', o.psp_account_id, 'account', a.name, 'psp', a.psp, 'tries', o.sweep_step)
        FROM operations o LEFT JOIN psp_accounts a ON a.tenant_id = o.tenant_id AND a.live = o.live AND a.psp_account_id = o.psp_account_id
        WHERE o.tenant_id = tenant AND o.live = is_live AND o.state IN ('unknown', 'needs_review') AND o.operation_id > low
          AND (wanted IS NULL OR o.operation_id = ANY (wanted)) AND (of_state IS NULL OR o.state = of_state)
          AND (of_kind IS NULL OR o.kind = of_kind) AND (account IS NULL OR o.psp_account_id = account) AND o.created_at < upto
        ORDER BY o.operation_id LIMIT most;
    WHEN 'webhooks' THEN
        RETURN QUERY SELECT w.inbox_id, w.type, w.state, w.received_at, w.due_at, NULL::text, w.note,
            jsonb_build_object('psp_account_id', w.psp_account_id, 'account', a.name, 'psp', a.psp, 'tries', w.tries,
                               'readable', w.news IS NOT NULL)
        FROM webhook_inbox w LEFT JOIN psp_accounts a ON a.tenant_id = w.tenant_id AND a.live = w.live AND a.psp_account_id = w.psp_account_id
        WHERE w.tenant_id = tenant AND w.live = is_live AND w.state IN ('parked', 'needs_attention') AND w.inbox_id > low
          AND (wanted IS NULL OR w.inbox_id = ANY (wanted)) AND (of_state IS NULL OR w.state = of_state)
          AND (of_kind IS NULL OR w.type = of_kind) AND (account IS NULL OR w.psp_account_id = account) AND w.received_at < upto
        ORDER BY w.inbox_id LIMIT most;
    WHEN 'deliveries' THEN
        RETURN QUERY SELECT d.delivery_id, d.event_type, d.state, d.created_at, d.due_at, d.last_status::text, d.last_error,
            jsonb_build_object('endpoint_id', d.webhook_endpoint_id, 'url', e.url, 'enabled', e.status = 'enabled', 'event_id', d.event_id,
                               'tries', d.attempts)
        FROM webhook_deliveries d JOIN webhook_endpoints e
          ON e.tenant_id = d.tenant_id AND e.live = d.live AND e.webhook_endpoint_id = d.webhook_endpoint_id
        WHERE d.tenant_id = tenant AND d.live = is_live AND d.state = 'failed' AND d.delivery_id > low
          AND (wanted IS NULL OR d.delivery_id = ANY (wanted)) AND (of_kind IS NULL OR d.event_type = of_kind)
          AND (endpoint IS NULL OR d.webhook_endpoint_id = endpoint) AND d.created_at < upto
        ORDER BY d.delivery_id LIMIT most;
    WHEN 'notices' THEN
        RETURN QUERY SELECT n.notice_id, n.kind,
            CASE n.state WHEN 'queued' THEN 'retrying' WHEN 'dropped' THEN 'undeliverable' ELSE n.state END,
            n.created_at, n.due_at, NULL::text, n.error,
            jsonb_build_object('customer_id', n.customer_id, 'invoice_id', n.invoice_id, 'subscription_id', n.subscription_id,
                               'tries', n.tries)
        FROM notices n
        WHERE n.tenant_id = tenant AND n.live = is_live AND n.notice_id > low
          AND (n.state = 'failed' OR (n.state = 'queued' AND n.tries > 0)
               OR (n.state = 'dropped' AND n.error IN ('no_email', 'address_invalid')))
          AND (wanted IS NULL OR n.notice_id = ANY (wanted)) AND (of_kind IS NULL OR n.kind = of_kind)
          AND (of_state IS NULL OR n.state = CASE of_state WHEN 'retrying' THEN 'queued' WHEN 'undeliverable' THEN 'dropped' ELSE of_state END)
          AND n.created_at < upto
        ORDER BY n.notice_id LIMIT most;
    WHEN 'rebills' THEN
        RETURN QUERY SELECT x.invoice_id, 'rebill', x.state, x.since, x.next_at, x.code, NULL::text,
            jsonb_build_object('number', i.number, 'amount_minor', i.due_minor - i.credited_minor, 'currency', i.currency,
                               'customer_id', i.customer_id, 'subscription_id', i.subscription_id, 'payment_id', i.payment_id,
                               'operation_id', x.operation_id, 'psp_account_id', x.psp_account_id, 'account', a.name)
        FROM (
            -- The charge's outcome is not known: nothing more is charged until it is.
            (SELECT r.invoice_id, 'needs_review' AS state, o.created_at AS since, o.sweep_at AS next_at, o.code, o.operation_id,
                    o.psp_account_id
             FROM operations o JOIN rebill_tries t ON t.tenant_id = o.tenant_id AND t.live = o.live AND t.operation_id = o.operation_id
             JOIN rebills r ON r.tenant_id = t.tenant_id AND r.live = t.live AND r.invoice_id = t.invoice_id
             WHERE o.tenant_id = tenant AND o.live = is_live AND o.state IN ('unknown', 'needs_review')
               AND (of_state IS NULL OR of_state = 'needs_review') AND r.invoice_id > low
               AND (wanted IS NULL OR r.invoice_id = ANY (wanted))
             ORDER BY r.invoice_id LIMIT most)
            UNION ALL
            -- The provider refuses the merchant's account: its rebills rest.
            (SELECT r.invoice_id, 'blocked', r.updated_at, b.blocked_until, b.blocked_because, NULL::uuid, r.psp_account_id
             FROM rebill_pace b JOIN rebills r ON r.tenant_id = b.tenant_id AND r.live = b.live AND r.psp_account_id = b.psp_account_id
             WHERE b.tenant_id = tenant AND b.live = is_live AND b.blocked_until > moment AND r.state = 'due'
               AND r.test_clock_id IS NULL AND (of_state IS NULL OR of_state = 'blocked') AND r.invoice_id > low
               AND (wanted IS NULL OR r.invoice_id = ANY (wanted))
             ORDER BY r.invoice_id LIMIT most)
            UNION ALL
            -- The period was missed, and somebody has to say whether it is charged after all.
            (SELECT h.invoice_id, 'held', h.created_at, NULL::timestamptz, NULL::text, NULL::uuid, NULL::uuid
             FROM invoices h
             WHERE h.tenant_id = tenant AND h.live = is_live AND h.collection = 'held' AND h.status = 'open' AND h.invoice_id > low
               AND (of_state IS NULL OR of_state = 'held') AND (wanted IS NULL OR h.invoice_id = ANY (wanted))
             ORDER BY h.invoice_id LIMIT most)) AS x
        JOIN invoices i ON i.tenant_id = tenant AND i.live = is_live AND i.invoice_id = x.invoice_id
        LEFT JOIN psp_accounts a ON a.tenant_id = tenant AND a.live = is_live AND a.psp_account_id = x.psp_account_id
        WHERE (account IS NULL OR x.psp_account_id = account) AND x.since < upto
        ORDER BY x.invoice_id LIMIT most;
    END CASE;
END $$;

-- How much is in each of p->'queues', counted up to p->>'most'.
CREATE OR REPLACE FUNCTION desk_counts_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_object_agg(q, (SELECT count(*) FROM desk_rows_{{v}}(p || jsonb_build_object('queue', q), NULL,
                                                                                   (p->>'most')::integer))), '{}')
            FROM jsonb_array_elements_text(p->'queues') AS q);
END $$;

-- A page of p->>'queue', narrowed by p->'filter', after p->>'after'; and how many match, counted up to p->>'most'.
CREATE OR REPLACE FUNCTION desk_page_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN jsonb_build_object(
        'rows', (SELECT COALESCE(jsonb_agg(to_jsonb(r) ORDER BY r.id), '[]')
                 FROM desk_rows_{{v}}(p, (p->>'after')::uuid, (p->>'limit')::integer) AS r),
        'total', (SELECT count(*) FROM desk_rows_{{v}}(p, NULL, (p->>'most')::integer)));
END $$;

-- Do what is asked about one row of a queue, as whoever p names; refuses what cannot be done.
CREATE OR REPLACE FUNCTION desk_one_{{v}}(p jsonb, item uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    event uuid := id_at_{{v}}((p->>'now')::timestamptz, 'desk ' || (p->>'request_id') || ' ' || item);
    op operations;
    n notices;
    d webhook_deliveries;
    e webhook_endpoints;
    told integer;
    looked uuid;
    account uuid;
BEGIN
    IF p->>'queue' = 'rebills' THEN
        SELECT t.operation_id INTO looked FROM rebill_tries t JOIN operations o USING (tenant_id, live, operation_id)
        WHERE t.tenant_id = tenant AND t.live = is_live AND t.invoice_id = item AND o.state IN ('unknown', 'needs_review')
        ORDER BY t.try DESC LIMIT 1;
    ELSIF p->>'queue' = 'unknown' THEN
        looked := item;
    END IF;
    IF looked IS NOT NULL THEN
        -- Look it up now instead of when recovery would: what may be done after the look is recovery's to say, never ours.
        SELECT * INTO op FROM operations o WHERE o.tenant_id = tenant AND o.live = is_live AND o.operation_id = looked FOR UPDATE;
        IF op.operation_id IS NULL THEN
            PERFORM refuse_{{v}}('operation_not_found');
        ELSIF op.state NOT IN ('unknown', 'needs_review') THEN
            PERFORM refuse_{{v}}('work_done_already', jsonb_build_object('state', op.state));
        ELSIF op.lease_until > moment THEN
            RETURN; -- It is being looked up.
        END IF;
        UPDATE operations SET sweep_at = moment WHERE tenant_id = tenant AND live = is_live AND operation_id = looked;
        SELECT i.sequence INTO told FROM payment_intents i WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = op.payment_id;
        PERFORM journal_write_{{v}}(p, event, 'operation.lookup_requested', 'operation', looked, told,
            (SELECT i.customer_id FROM payment_intents i WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = op.payment_id),
            jsonb_strip_nulls(jsonb_build_object('payment_id', op.payment_id, 'bulk_run_id', p->>'bulk_run_id')));
    ELSIF p->>'queue' = 'webhooks' THEN
        PERFORM inbox_decide_{{v}}(p || jsonb_build_object('inbox_id', item, 'want', p->>'action', 'event_id', event));
    ELSIF p->>'queue' = 'deliveries' THEN
        SELECT * INTO d FROM webhook_deliveries x WHERE x.tenant_id = tenant AND x.live = is_live AND x.delivery_id = item FOR UPDATE;
        IF d.delivery_id IS NULL THEN
            PERFORM refuse_{{v}}('not_found');
        ELSIF d.state <> 'failed' THEN
            PERFORM refuse_{{v}}('work_done_already', jsonb_build_object('state', d.state));
        END IF;
        SELECT * INTO e FROM webhook_endpoints x
        WHERE x.tenant_id = tenant AND x.live = is_live AND x.webhook_endpoint_id = d.webhook_endpoint_id;
        IF e.status <> 'enabled' THEN
            PERFORM refuse_{{v}}('webhook_endpoint_not_enabled');
        END IF;
        UPDATE webhook_deliveries SET state = 'pending', due_at = moment, tries = 0, replays = replays + 1, updated_at = moment
        WHERE tenant_id = tenant AND live = is_live AND delivery_id = item;
        -- A bulk run tells what it did in one entry of its own; an entry per delivery would be an event for each endpoint to deliver.
        IF NOT p ? 'bulk_run_id' THEN
            UPDATE webhook_endpoints SET sequence = sequence + 1, updated_at = moment
            WHERE tenant_id = tenant AND live = is_live AND webhook_endpoint_id = e.webhook_endpoint_id;
            PERFORM journal_write_{{v}}(p, event, 'webhook_endpoint.replayed', 'webhook_endpoint', e.webhook_endpoint_id, e.sequence + 1,
                NULL, jsonb_build_object('status', e.status, 'deliveries', 1));
        END IF;
    ELSIF p->>'queue' = 'notices' THEN
        SELECT * INTO n FROM notices x WHERE x.tenant_id = tenant AND x.live = is_live AND x.notice_id = item FOR UPDATE;
        IF n.notice_id IS NULL THEN
            PERFORM refuse_{{v}}('not_found');
        ELSIF n.state NOT IN ('failed', 'queued', 'dropped')
              OR (n.state = 'dropped' AND COALESCE(n.error, '') NOT IN ('no_email', 'address_invalid')) THEN
            PERFORM refuse_{{v}}('work_done_already', jsonb_build_object('state', n.state));
        ELSIF n.lease_token IS NOT NULL AND n.due_at > moment THEN
            RETURN; -- It is being sent.
        END IF;
        UPDATE notices SET state = 'queued', due_at = clock_moment_{{v}}(p, n.test_clock_id), tries = 0, lease_token = NULL,
            updated_at = moment
        WHERE tenant_id = tenant AND live = is_live AND notice_id = item;
        PERFORM journal_write_{{v}}(p, event, 'notice.retried', 'notice', item, n.tries + 1, n.customer_id,
            jsonb_strip_nulls(jsonb_build_object('invoice_id', n.invoice_id, 'kind', n.kind, 'state_before', n.state,
                'bulk_run_id', p->>'bulk_run_id')));
    ELSIF EXISTS (SELECT FROM rebills r WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = item) THEN
        SELECT r.psp_account_id INTO account FROM rebills r WHERE r.tenant_id = tenant AND r.live = is_live AND r.invoice_id = item;
        PERFORM rebill_retry_{{v}}(p || jsonb_build_object('invoice_id', item));
        -- Its account rests because the PSP refused it: whoever asks for a charge says that it may be asked again. A bulk run says
        -- so at its end, as what has ended its rest is in this queue no longer.
        IF NOT p ? 'bulk_run_id' THEN
            UPDATE rebill_pace SET blocked_until = NULL, blocked_because = NULL
            WHERE tenant_id = tenant AND live = is_live AND psp_account_id = account AND blocked_until IS NOT NULL;
        END IF;
    ELSE
        PERFORM rebill_release_{{v}}(p || jsonb_build_object('invoice_id', item));
    END IF;
END $$;

-- The same for one row, in a transaction of its own.
CREATE OR REPLACE FUNCTION desk_act_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enter_{{v}}(p);
    PERFORM desk_one_{{v}}(p, (p->>'item')::uuid);
    RETURN 'true';
END $$;

-- Begin a bulk run: {bulk_run_id, queue, action, filter, reason, most}. One at a time per queue. Answers the run.
CREATE OR REPLACE FUNCTION bulk_start_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    run bulk_runs;
    matching integer;
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT count(*) INTO matching FROM desk_rows_{{v}}(p, NULL, (p->>'most')::integer);
    IF matching = 0 THEN
        PERFORM refuse_{{v}}('bulk_run_empty');
    END IF;
    INSERT INTO bulk_runs (tenant_id, live, bulk_run_id, queue, action, filter, reason, state, total, total_is_more, asked_by, actor_type,
                           request_id, due_at, created_at, updated_at)
    VALUES ((p->>'tenant_id')::uuid, (p->>'live')::boolean, (p->>'bulk_run_id')::uuid, p->>'queue', p->>'action',
            p->'filter' || jsonb_build_object('until', p->>'now'), p->>'reason', 'waiting', matching, matching = (p->>'most')::integer,
            p->>'actor_id', p->>'actor_type', p->>'request_id', (p->>'now')::timestamptz, (p->>'now')::timestamptz,
            (p->>'now')::timestamptz)
    ON CONFLICT DO NOTHING RETURNING * INTO run;
    IF run.bulk_run_id IS NULL THEN
        PERFORM refuse_{{v}}('bulk_run_under_way');
    END IF;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'bulk started ' || run.bulk_run_id), 'bulk_run.started', 'bulk_run',
        run.bulk_run_id, 1, NULL, jsonb_build_object('queue', run.queue, 'action', run.action, 'reason', run.reason, 'total', run.total));
    RETURN to_jsonb(run);
END $$;

-- Take a run of one tenant that is due, under a lease; null when there is none. Who dies over it leaves it due when the lease ends.
CREATE OR REPLACE FUNCTION bulk_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    run bulk_runs;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO run FROM bulk_runs b
    WHERE b.tenant_id = (p->>'tenant_id')::uuid AND b.live = (p->>'live')::boolean AND b.due_at <= (p->>'now')::timestamptz
    ORDER BY b.due_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF run.bulk_run_id IS NULL THEN
        RETURN 'null';
    END IF;
    UPDATE bulk_runs SET state = 'running', lease_token = (p->>'lease_token')::uuid, due_at = (p->>'lease_until')::timestamptz,
        updated_at = (p->>'now')::timestamptz
    WHERE tenant_id = run.tenant_id AND live = run.live AND bulk_run_id = run.bulk_run_id RETURNING * INTO run;
    RETURN to_jsonb(run);
END $$;

-- The next p->>'most' rows of a run that we hold: what is done to them and that it was done is one transaction, so a run that is taken up
-- again goes on behind the last row and does none twice. A row that refuses is counted and does not stop the others; the first
-- p->>'errors_max' refusals are kept. Answers {"over": true} when there is nothing left or the run is not ours any more.
CREATE OR REPLACE FUNCTION bulk_step_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    run bulk_runs;
    moment timestamptz := (p->>'now')::timestamptz;
    given jsonb;
    items uuid[];
    item uuid;
    done_now integer := 0;
    failed_now integer := 0;
    refusals jsonb := '[]';
    code text;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO run FROM bulk_runs b
    WHERE b.tenant_id = (p->>'tenant_id')::uuid AND b.live = (p->>'live')::boolean AND b.bulk_run_id = (p->>'bulk_run_id')::uuid FOR UPDATE;
    IF run.bulk_run_id IS NULL OR run.state <> 'running' OR run.lease_token IS DISTINCT FROM (p->>'lease_token')::uuid THEN
        RETURN jsonb_build_object('over', true);
    END IF;
    -- As the person who asked: the trail names them at each row.
    given := p || jsonb_build_object('queue', run.queue, 'action', run.action, 'filter', run.filter, 'reason', run.reason,
        'actor_type', run.actor_type, 'actor_id', run.asked_by, 'request_id', run.request_id);
    SELECT array_agg(r.id ORDER BY r.id) INTO items FROM desk_rows_{{v}}(given, run.cursor_id, (p->>'most')::integer) AS r;
    FOREACH item IN ARRAY COALESCE(items, '{}') LOOP
        BEGIN
            PERFORM desk_one_{{v}}(given, item);
            done_now := done_now + 1;
        EXCEPTION WHEN SQLSTATE 'CS001' THEN
            GET STACKED DIAGNOSTICS code = MESSAGE_TEXT;
            failed_now := failed_now + 1;
            refusals := refusals || jsonb_build_object('id', item, 'code', code);
        END;
    END LOOP;
    UPDATE bulk_runs SET
        cursor_id = COALESCE(items[cardinality(items)], cursor_id), done = done + done_now, failed = failed + failed_now,
        errors = (SELECT COALESCE(jsonb_agg(e.value ORDER BY e.ordinality), '[]')
                  FROM jsonb_array_elements(errors || refusals) WITH ORDINALITY AS e
                  WHERE e.ordinality <= (p->>'errors_max')::integer),
        state = CASE WHEN items IS NULL THEN 'done' ELSE state END,
        due_at = CASE WHEN items IS NOT NULL THEN (p->>'lease_until')::timestamptz END,
        lease_token = CASE WHEN items IS NOT NULL THEN lease_token END,
        ended_at = CASE WHEN items IS NULL THEN moment END, sequence = sequence + CASE WHEN items IS NULL THEN 1 ELSE 0 END,
        updated_at = moment
    WHERE tenant_id = run.tenant_id AND live = run.live AND bulk_run_id = run.bulk_run_id RETURNING * INTO run;
    IF items IS NULL AND run.queue = 'rebills' AND COALESCE(run.filter->>'state', 'blocked') = 'blocked' THEN
        UPDATE rebill_pace b SET blocked_until = NULL, blocked_because = NULL
        WHERE b.tenant_id = run.tenant_id AND b.live = run.live AND b.blocked_until IS NOT NULL
          AND (run.filter->>'account' IS NULL OR b.psp_account_id = (run.filter->>'account')::uuid)
          AND (NOT run.filter ? 'ids' OR EXISTS (
              SELECT FROM rebills r WHERE r.tenant_id = b.tenant_id AND r.live = b.live AND r.psp_account_id = b.psp_account_id
              AND r.invoice_id IN (SELECT jsonb_array_elements_text(run.filter->'ids')::uuid)));
    END IF;
    IF items IS NULL THEN
        PERFORM journal_write_{{v}}(given, id_at_{{v}}(moment, 'bulk ended ' || run.bulk_run_id), 'bulk_run.ended', 'bulk_run',
            run.bulk_run_id, run.sequence, NULL, jsonb_build_object('queue', run.queue, 'action', run.action, 'done', run.done,
            'failed', run.failed));
    END IF;
    RETURN jsonb_build_object('over', items IS NULL, 'queue', run.queue, 'action', run.action);
END $$;

-- Give a run back that is not over, due at once: whoever held it has to stop.
CREATE OR REPLACE FUNCTION bulk_release_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE bulk_runs SET lease_token = NULL, due_at = (p->>'now')::timestamptz
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND bulk_run_id = (p->>'bulk_run_id')::uuid
      AND lease_token = (p->>'lease_token')::uuid AND state = 'running';
    RETURN to_jsonb(FOUND);
END $$;

-- Stop a run: what it has done stays done, the rest is left alone.
CREATE OR REPLACE FUNCTION bulk_cancel_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    run bulk_runs;
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT * INTO run FROM bulk_runs b
    WHERE b.tenant_id = (p->>'tenant_id')::uuid AND b.live = (p->>'live')::boolean AND b.bulk_run_id = (p->>'bulk_run_id')::uuid FOR UPDATE;
    IF run.bulk_run_id IS NULL THEN
        PERFORM refuse_{{v}}('not_found');
    ELSIF run.state NOT IN ('waiting', 'running') THEN
        PERFORM refuse_{{v}}('bulk_run_over', jsonb_build_object('state', run.state));
    END IF;
    UPDATE bulk_runs SET state = 'canceled', due_at = NULL, lease_token = NULL, ended_at = (p->>'now')::timestamptz, sequence = sequence + 1,
        updated_at = (p->>'now')::timestamptz
    WHERE tenant_id = run.tenant_id AND live = run.live AND bulk_run_id = run.bulk_run_id RETURNING * INTO run;
    PERFORM journal_write_{{v}}(p, id_at_{{v}}((p->>'now')::timestamptz, 'bulk canceled ' || run.bulk_run_id), 'bulk_run.canceled', 'bulk_run',
        run.bulk_run_id, run.sequence, NULL, jsonb_build_object('queue', run.queue, 'action', run.action, 'done', run.done,
        'failed', run.failed));
    RETURN to_jsonb(run);
END $$;

-- Runs, newest first: of p->>'queue', or the one that is p->>'bulk_run_id'.
CREATE OR REPLACE FUNCTION bulk_list_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(to_jsonb(r) ORDER BY r.created_at DESC), '[]') FROM (
        SELECT * FROM bulk_runs b
        WHERE b.tenant_id = (p->>'tenant_id')::uuid AND b.live = (p->>'live')::boolean
          AND (p->>'queue' IS NULL OR b.queue = p->>'queue')
          AND (p->>'bulk_run_id' IS NULL OR b.bulk_run_id = (p->>'bulk_run_id')::uuid)
        ORDER BY b.created_at DESC LIMIT (p->>'limit')::integer) AS r);
END $$;
