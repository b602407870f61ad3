-- The inbox of PSPs' messages: received and committed before the PSP gets its 200, told to the payments afterwards.
--
-- webhook_inbox.due_at says when a message is told next; it is null when there is nothing to do. A message that matches nothing
-- is parked and told again after each step of p->'delays_s'; when these are used up a human has to look.

-- The account that a webhook address belongs to, across tenants: nobody has said yet for whom the message is. The token is the
-- secret that opens this door; settings are sealed under the tenant's key.
CREATE OR REPLACE FUNCTION inbox_account_{{v}}(token text) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT jsonb_build_object('tenant_id', tenant_id, 'live', live, 'account_id', psp_account_id, 'psp', psp, 'account', name,
        'config_version', config_version, 'config', encode(config, 'base64'),
        'previous_config', encode(previous_config, 'base64'), 'previous_until', previous_until)
      INTO found FROM psp_accounts WHERE webhook_token = token;
    PERFORM set_config('app.system', '', true);
    RETURN COALESCE(found, 'null');
END $$;

-- How much waits, across tenants, for monitoring: numbers only.
CREATE OR REPLACE FUNCTION inbox_backlog_{{v}}(moment timestamptz) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_object_agg(state, jsonb_build_object('rows', rows, 'oldest_s', oldest_s)), '{}') INTO found FROM (
        SELECT state, count(*) AS rows, extract(epoch FROM moment - min(received_at)) AS oldest_s FROM webhook_inbox
        WHERE state IN ('received', 'parked', 'needs_attention') GROUP BY state) AS waiting;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- Keep the events of one message: {psp_account_id, body_hash, events}. One that is here already counts as seen again. A hint
-- says no more than "look", and some PSPs say it in the same bytes each time: one that was followed is followed again. Answers
-- how many are new.
CREATE OR REPLACE FUNCTION inbox_receive_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    event jsonb;
    times integer;
    fresh integer := 0;
BEGIN
    PERFORM enter_{{v}}(p);
    -- In one order, so that two deliveries of the same events wait for each other and do not block each other.
    FOR event IN SELECT e FROM jsonb_array_elements(p->'events') AS e ORDER BY e->>'event_key' COLLATE "C" LOOP
        INSERT INTO webhook_inbox AS known (tenant_id, live, inbox_id, psp_account_id, event_key, type, news, body, body_hash,
            psp_sequence, state, note, due_at, received_at, updated_at)
        VALUES ((p->>'tenant_id')::uuid, (p->>'live')::boolean, (event->>'inbox_id')::uuid, (p->>'psp_account_id')::uuid,
            event->>'event_key', event->>'type', NULLIF(event->'news', 'null'), decode(event->>'body', 'base64'),
            decode(p->>'body_hash', 'hex'), (event->>'sequence')::bigint, event->>'state', event->>'note',
            CASE WHEN event->>'state' = 'received' THEN moment END, moment, moment)
        ON CONFLICT (tenant_id, live, psp_account_id, event_key) DO UPDATE SET
            seen = known.seen + 1,
            updated_at = moment,
            tries = CASE WHEN known.state = 'applied' AND known.news->>'type' = 'hint' THEN 0 ELSE known.tries END,
            due_at = CASE WHEN known.state = 'applied' AND known.news->>'type' = 'hint' THEN moment ELSE known.due_at END,
            state = CASE WHEN known.state = 'applied' AND known.news->>'type' = 'hint' THEN 'received' ELSE known.state END
        RETURNING seen INTO times;
        IF times = 1 THEN
            fresh := fresh + 1;
            IF event->>'state' = 'needs_attention' THEN
                PERFORM journal_write_{{v}}(p, (event->>'event_id')::uuid, 'webhook.needs_attention', 'webhook',
                    (event->>'inbox_id')::uuid, 1, NULL,
                    jsonb_build_object('psp_account_id', p->>'psp_account_id', 'code', 'unreadable'));
            END IF;
        END IF;
    END LOOP;
    RETURN to_jsonb(fresh);
END $$;

-- Take up to p->>'most' due messages of one tenant under a lease. The next try is set here, before anything is told, so that a
-- message at which every process dies is not told in a loop: after a hundred of them, up to a minute apart, a human has to look.
-- Who died over something else counts as well; it takes no step of the growing distances, only an answer does.
CREATE OR REPLACE FUNCTION inbox_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    lease timestamptz := (p->>'lease_until')::timestamptz;
    steps integer := jsonb_array_length(p->'delays_s');
    claimed jsonb := '[]';
    msg record;
    n integer := 0;
BEGIN
    PERFORM enter_{{v}}(p);
    FOR msg IN
        SELECT inbox_id, psp_account_id, news, psp_sequence, tries + CASE WHEN lease_until IS NULL THEN 1 ELSE 0 END AS try, seen, sequence,
               CASE WHEN lease_until IS NULL THEN 0 ELSE cut_short + 1 END AS cuts FROM webhook_inbox
        WHERE tenant_id = tenant AND live = is_live AND due_at <= moment AND (lease_until IS NULL OR lease_until <= moment)
        ORDER BY due_at, inbox_id LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED
    LOOP
        IF msg.cuts >= 100 THEN
            UPDATE webhook_inbox SET state = 'needs_attention', note = COALESCE(note, 'every try was cut short'), due_at = NULL,
                lease_until = NULL, sequence = msg.sequence + 1, updated_at = moment
            WHERE tenant_id = tenant AND live = is_live AND inbox_id = msg.inbox_id;
            PERFORM journal_write_{{v}}(p, (p->'event_ids'->>n)::uuid, 'webhook.needs_attention', 'webhook', msg.inbox_id,
                msg.sequence + 1, NULL, jsonb_build_object('psp_account_id', msg.psp_account_id, 'code', 'not_told'));
            n := n + 1;
            CONTINUE;
        END IF;
        UPDATE webhook_inbox SET lease_until = lease, tries = msg.try, cut_short = msg.cuts, updated_at = moment,
            -- What died with its process is told again soon; only an answer makes the distances grow (inbox_told).
            due_at = greatest(lease, moment + make_interval(
                secs => least(60, (p->'delays_s'->>least(msg.cuts, steps - 1))::double precision)))
        WHERE tenant_id = tenant AND live = is_live AND inbox_id = msg.inbox_id;
        claimed := claimed || jsonb_build_object('inbox_id', msg.inbox_id, 'account_id', msg.psp_account_id, 'news', msg.news,
            'sequence', msg.psp_sequence, 'tries', greatest(msg.try, 1), 'seen', msg.seen);
    END LOOP;
    RETURN claimed;
END $$;

-- Store what became of a message that was claimed until p->>'lease_until': {inbox_id, seen, state, note, code, due_at,
-- payment_id, operation_id, dispute_id}. Without state it stays what it was. False when the lease is somebody else's by now.
CREATE OR REPLACE FUNCTION inbox_told_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    msg record;
    entry text;
BEGIN
    PERFORM enter_{{v}}(p);
    UPDATE webhook_inbox SET
        -- A hint that came again while it was followed is followed again: the look may have been too early for it.
        state = CASE WHEN p->>'state' = 'applied' AND news->>'type' = 'hint' AND seen <> (p->>'seen')::integer THEN 'received'
                     ELSE COALESCE(p->>'state', state) END,
        due_at = CASE WHEN p->>'state' = 'applied' AND news->>'type' = 'hint' AND seen <> (p->>'seen')::integer
                      THEN (p->>'now')::timestamptz ELSE (p->>'due_at')::timestamptz END,
        note = p->>'note', lease_until = NULL, payment_id = (p->>'payment_id')::uuid, operation_id = (p->>'operation_id')::uuid,
        dispute_id = (p->>'dispute_id')::uuid, updated_at = (p->>'now')::timestamptz
    WHERE tenant_id = tenant AND live = is_live AND inbox_id = (p->>'inbox_id')::uuid AND state IN ('received', 'parked')
      AND lease_until = (p->>'lease_until')::timestamptz
    RETURNING inbox_id, psp_account_id, state, note, sequence INTO msg;
    IF msg.inbox_id IS NULL THEN
        RETURN 'false';
    END IF;
    entry := CASE msg.state WHEN 'parked' THEN 'webhook.parked' WHEN 'needs_attention' THEN 'webhook.needs_attention' END;
    -- That it is parked is told once, however often it is tried.
    IF entry IS NULL OR (msg.state = 'parked' AND EXISTS (
        SELECT FROM journal j WHERE j.tenant_id = tenant AND j.live = is_live AND j.subject_id = msg.inbox_id
        AND j.type = 'webhook.parked'))
    THEN
        RETURN 'true';
    END IF;
    UPDATE webhook_inbox SET sequence = msg.sequence + 1
    WHERE tenant_id = tenant AND live = is_live AND inbox_id = msg.inbox_id;
    PERFORM journal_write_{{v}}(p, (p->>'event_id')::uuid, entry, 'webhook', msg.inbox_id, msg.sequence + 1, NULL,
        jsonb_build_object('psp_account_id', msg.psp_account_id, 'code', p->>'code'));
    RETURN 'true';
END $$;

-- What a human decides about a message that waits: {inbox_id, want: retry | dismiss, reason}.
CREATE OR REPLACE FUNCTION inbox_decide_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    retry boolean := p->>'want' = 'retry';
    msg record;
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT inbox_id, psp_account_id, state, news IS NOT NULL AS readable, lease_until, sequence INTO msg FROM webhook_inbox
    WHERE tenant_id = tenant AND live = is_live AND inbox_id = (p->>'inbox_id')::uuid FOR UPDATE;
    IF msg.inbox_id IS NULL THEN
        PERFORM refuse_{{v}}('psp_webhook_not_found');
    ELSIF msg.lease_until > moment AND msg.state IN ('received', 'parked') THEN
        PERFORM refuse_{{v}}('psp_webhook_busy');
    ELSIF msg.state NOT IN ('parked', 'needs_attention', CASE WHEN retry THEN 'dismissed' ELSE 'received' END) THEN
        PERFORM refuse_{{v}}('psp_webhook_settled', jsonb_build_object('state', msg.state));
    ELSIF retry AND NOT msg.readable THEN
        PERFORM refuse_{{v}}('psp_webhook_unreadable');
    END IF;
    UPDATE webhook_inbox SET state = CASE WHEN retry THEN 'parked' ELSE 'dismissed' END, note = CASE WHEN retry THEN note
            ELSE p->>'reason' END, tries = CASE WHEN retry AND msg.state <> 'parked' THEN 0 ELSE tries END,
        due_at = CASE WHEN retry THEN moment END, lease_until = NULL, sequence = msg.sequence + 1, updated_at = moment
    WHERE tenant_id = tenant AND live = is_live AND inbox_id = msg.inbox_id;
    PERFORM journal_write_{{v}}(p, (p->>'event_id')::uuid, CASE WHEN retry THEN 'webhook.retried' ELSE 'webhook.dismissed' END,
        'webhook', msg.inbox_id, msg.sequence + 1, NULL, jsonb_strip_nulls(jsonb_build_object(
        'psp_account_id', msg.psp_account_id, 'state_before', msg.state, 'reason', p->>'reason')));
    RETURN to_jsonb(msg.inbox_id);
END $$;
