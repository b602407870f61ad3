-- What is due, across tenants: ids and kinds only. The owner sees it; the work itself is done as the application, tenant by tenant.
-- keys_before is the moment before which the answers of idempotency keys are forgotten; null asks for no such work.
CREATE OR REPLACE FUNCTION due_work_{{v}}(moment timestamptz, most integer, keys_before timestamptz DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_agg(due), '[]') INTO found FROM (
        SELECT tenant_id, live, 'expire_payments' AS job, count(*) AS rows FROM (
            SELECT tenant_id, live FROM payment_intents
            WHERE status IN ('requires_payment_method', 'requires_confirmation', 'requires_action') AND expires_at <= moment
            ORDER BY expires_at LIMIT most) AS stale
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'recover_operations', count(*) FROM (
            SELECT tenant_id, live FROM operations
            WHERE sweep_at <= moment
              AND state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')
            ORDER BY sweep_at LIMIT most) AS open_outcomes
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'apply_webhooks', count(*) FROM (
            SELECT tenant_id, live FROM webhook_inbox WHERE due_at <= moment ORDER BY due_at LIMIT most) AS inbox
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'unwind_charges', count(*) FROM (
            SELECT tenant_id, live FROM payment_intents WHERE unwind_at <= moment ORDER BY unwind_at LIMIT most) AS unwanted
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'expire_approvals', count(*) FROM (
            SELECT tenant_id, live FROM approvals WHERE status = 'open' AND expires_at <= moment
            ORDER BY expires_at LIMIT most) AS unanswered
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'plan_subscriptions', count(*) FROM (
            SELECT tenant_id, live FROM subscriptions WHERE next_at <= moment AND test_clock_id IS NULL
            ORDER BY next_at LIMIT most) AS periods
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'collect_invoices', count(*) FROM (
            SELECT tenant_id, live FROM rebills WHERE next_at <= moment AND test_clock_id IS NULL
            ORDER BY next_at LIMIT most) AS unpaid
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'send_notices', count(*) FROM (
            SELECT tenant_id, live FROM notices WHERE due_at <= moment AND test_clock_id IS NULL
            ORDER BY due_at LIMIT most) AS unsent
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'advance_test_clocks', count(*) FROM (
            SELECT tenant_id, live FROM test_clocks
            WHERE status = 'advancing' AND (lease_until IS NULL OR lease_until <= moment)
            ORDER BY updated_at LIMIT most) AS moving
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'work_bulk_runs', count(*) FROM (
            SELECT tenant_id, live FROM bulk_runs WHERE due_at <= moment ORDER BY due_at LIMIT most) AS asked_for
        GROUP BY tenant_id, live
        UNION ALL
        SELECT tenant_id, live, 'expire_keys', count(*) FROM (
            SELECT tenant_id, live FROM idempotency_keys WHERE state = 'done' AND created_at < keys_before
            ORDER BY created_at LIMIT most) AS old
        GROUP BY tenant_id, live) AS due;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- The stale intents of one tenant, oldest first. SKIP LOCKED: several workers share the work.
CREATE OR REPLACE FUNCTION stale_payments_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enter_{{v}}(p);
    RETURN (SELECT COALESCE(jsonb_agg(jsonb_build_object('payment_id', payment_id, 'status', status,
                                                         'operation_id', charge_operation_id)), '[]')
            FROM (SELECT payment_id, status, charge_operation_id FROM payment_intents
                  WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND expires_at <= (p->>'now')::timestamptz
                    AND status IN ('requires_payment_method', 'requires_confirmation', 'requires_action')
                  ORDER BY expires_at LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED) AS stale);
END $$;

-- Forget the answers of one tenant's old keys, oldest first; the keys themselves stay spent for ever. Returns how many.
CREATE OR REPLACE FUNCTION idempotency_purge_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    purged integer;
BEGIN
    PERFORM enter_{{v}}(p);
    UPDATE idempotency_keys k SET state = 'expired', status_code = NULL, body = NULL
    FROM (SELECT key_hash FROM idempotency_keys
          WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
            AND state = 'done' AND created_at < (p->>'before')::timestamptz
          ORDER BY created_at LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED) AS old
    WHERE k.tenant_id = (p->>'tenant_id')::uuid AND k.live = (p->>'live')::boolean AND k.key_hash = old.key_hash;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN to_jsonb(purged);
END $$;
