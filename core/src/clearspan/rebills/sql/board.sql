-- The dunning board: invoices of which a charge failed, in four columns.
--
--   at_risk     nobody will charge it by himself: it waits for the customer, for an outcome or for a decision
--   recovering  the next charge is planned, or under way
--   recovered   paid after all, at or after p->>'since'
--   lost        collection has ended without the money, at or after p->>'since'; what was made void was not lost, but taken back
--
-- Each column is a partial index in the order in which it is shown (0005), so a page costs its rows, wherever the cursor stands. What a
-- filter leaves out is looked through p->>'scan' rows at a time, and so many are counted for totals at most.

-- The next rows of a column after a place in its order. Open ones: what happens soonest is first; the others: what ended last.
CREATE OR REPLACE FUNCTION rebills_of_column_{{v}}(tenant uuid, is_live boolean, wanted text, since timestamptz, after_at timestamptz,
                                                   after_id uuid, most integer) RETURNS SETOF rebills LANGUAGE plpgsql STABLE AS $$
DECLARE
    low timestamptz := COALESCE(after_at, '-infinity');
    high timestamptz := COALESCE(after_at, 'infinity');
    low_id uuid := COALESCE(after_id, '00000000-0000-0000-0000-000000000000');
    high_id uuid := COALESCE(after_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
BEGIN
    CASE wanted
    WHEN 'at_risk' THEN
        RETURN QUERY SELECT r.* FROM rebills r
        WHERE r.tenant_id = tenant AND r.live = is_live AND r.state IN ('decide', 'waiting') AND r.first_failed_at IS NOT NULL
          AND (COALESCE(r.next_at, 'infinity'::timestamptz), r.invoice_id) > (low, low_id)
        ORDER BY COALESCE(r.next_at, 'infinity'::timestamptz), r.invoice_id LIMIT most;
    WHEN 'recovering' THEN
        RETURN QUERY SELECT r.* FROM rebills r
        WHERE r.tenant_id = tenant AND r.live = is_live AND r.state IN ('due', 'claimed') AND r.first_failed_at IS NOT NULL
          AND (r.next_at, r.invoice_id) > (low, low_id)
        ORDER BY r.next_at, r.invoice_id LIMIT most;
    WHEN 'recovered' THEN
        RETURN QUERY SELECT r.* FROM rebills r
        WHERE r.tenant_id = tenant AND r.live = is_live AND r.state = 'settled' AND r.first_failed_at IS NOT NULL
          AND r.updated_at >= since AND (r.updated_at, r.invoice_id) < (high, high_id)
        ORDER BY r.updated_at DESC, r.invoice_id DESC LIMIT most;
    WHEN 'lost' THEN
        RETURN QUERY SELECT r.* FROM rebills r
        WHERE r.tenant_id = tenant AND r.live = is_live AND r.state IN ('exhausted', 'stopped') AND r.first_failed_at IS NOT NULL
          AND r.updated_at >= since AND (r.updated_at, r.invoice_id) < (high, high_id)
        ORDER BY r.updated_at DESC, r.invoice_id DESC LIMIT most;
    END CASE;
END $$;

-- Whether a rebill stands on the board under the filters: p->'codes' of the last decline, p->>'plan_id' of an item, p->>'dunning_plan_id'
-- or p->>'built_in'.
CREATE OR REPLACE FUNCTION rebill_on_board_{{v}}(r rebills, i invoices, p jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT (r.state NOT IN ('exhausted', 'stopped') OR i.status NOT IN ('paid', 'void'))
       AND (p->'codes' IS NULL OR r.last_code IN (SELECT jsonb_array_elements_text(p->'codes')))
       AND (p->>'dunning_plan_id' IS NULL OR r.dunning_plan_id = (p->>'dunning_plan_id')::uuid)
       AND (p->>'built_in' IS NULL OR (r.dunning_plan_id IS NULL AND r.dunning_version > 0))
       AND (p->>'plan_id' IS NULL OR EXISTS (
            SELECT FROM subscription_items t WHERE t.tenant_id = r.tenant_id AND t.live = r.live AND t.subscription_id = r.subscription_id
                AND t.plan_id = (p->>'plan_id')::uuid));
$$;

-- A page of a column: {"cards": [...], "next_at", "next_id"}; the place after the page is null at the column's end. There may be fewer
-- cards than p->>'limit', even none, before it: the filters left out what was looked through.
CREATE OR REPLACE FUNCTION rebill_board_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    most integer := (p->>'limit')::integer;
    scan integer := (p->>'scan')::integer;
    ends boolean := p->>'column' IN ('recovered', 'lost');
    answer jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    WITH looked AS MATERIALIZED (
        SELECT r, row_number() OVER () AS n, CASE WHEN ends THEN r.updated_at ELSE COALESCE(r.next_at, 'infinity') END AS at,
               (SELECT rebill_on_board_{{v}}(r, i, p) FROM invoices i
                WHERE i.tenant_id = r.tenant_id AND i.live = r.live AND i.invoice_id = r.invoice_id) AS fits
        FROM rebills_of_column_{{v}}(tenant, is_live, p->>'column', (p->>'since')::timestamptz, (p->>'after_at')::timestamptz,
                                     (p->>'after_id')::uuid, scan) AS r
    ), page AS (
        SELECT * FROM looked WHERE fits ORDER BY n LIMIT most
    ), upto AS (
        -- The page is full: after its last card. Else after all that was looked at, when there may be more.
        SELECT at, (r).invoice_id AS id FROM looked
        WHERE n = CASE WHEN (SELECT count(*) FROM page) = most THEN (SELECT max(n) FROM page) WHEN (SELECT count(*) FROM looked) = scan
                       THEN scan END
          AND ((SELECT count(*) FROM looked) = scan OR n < (SELECT max(n) FROM looked))
    )
    SELECT jsonb_build_object('cards', COALESCE((SELECT jsonb_agg(rebill_row_{{v}}(page.r) || jsonb_build_object(
               'asked_minor', i.due_minor, 'subscription_status', s.status, 'plan', dunning_plan_of_{{v}}(s, page.r)->'plan',
               'what', (SELECT string_agg(t.description, ', ' ORDER BY t.position) FROM subscription_items t
                        WHERE t.tenant_id = tenant AND t.live = is_live AND t.subscription_id = s.subscription_id)) ORDER BY n)
        FROM page
        JOIN invoices i ON i.tenant_id = tenant AND i.live = is_live AND i.invoice_id = (page.r).invoice_id
        JOIN subscriptions s ON s.tenant_id = tenant AND s.live = is_live AND s.subscription_id = (page.r).subscription_id), '[]'),
        'next_at', (SELECT at::text FROM upto), 'next_id', (SELECT id FROM upto)) INTO answer;
    RETURN answer;
END $$;

-- Invoices and money of each column and currency: [{"column", "currency", "invoices", "amount_minor", "counted"}]. Columns of more than
-- p->>'scan' invoices are counted so far.
CREATE OR REPLACE FUNCTION rebill_board_totals_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    answer jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT COALESCE(jsonb_agg(to_jsonb(g) ORDER BY g."column", g.currency), '[]') INTO answer FROM (
        SELECT wanted AS "column", i.currency, count(*) AS invoices,
               sum(CASE wanted WHEN 'recovered' THEN i.due_minor ELSE i.due_minor - i.credited_minor END) AS amount_minor
        FROM unnest(ARRAY['at_risk', 'recovering', 'recovered', 'lost']) AS wanted,
             LATERAL rebills_of_column_{{v}}(tenant, is_live, wanted, (p->>'since')::timestamptz, NULL, NULL, (p->>'scan')::integer) AS r
        JOIN invoices i ON i.tenant_id = r.tenant_id AND i.live = r.live AND i.invoice_id = r.invoice_id
        WHERE rebill_on_board_{{v}}(r, i, p)
        GROUP BY wanted, i.currency) AS g;
    RETURN answer;
END $$;
