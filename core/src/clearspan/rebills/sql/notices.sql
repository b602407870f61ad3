-- What is to be sent to customers: queued in the transaction of what it tells about, sent by the worker.

-- Queue a notice at due_at_ unless the same reason (dedupe) was told before. clock is the test clock whose time due_at_ is in.
CREATE OR REPLACE FUNCTION notice_queue_{{v}}(p jsonb, kind_ text, customer uuid, subscription uuid, invoice uuid, dedupe_ text,
                                              due_at_ timestamptz, clock uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO notices (tenant_id, live, notice_id, kind, customer_id, subscription_id, invoice_id, dedupe, due_at, test_clock_id,
                         created_at, updated_at)
    SELECT (p->>'tenant_id')::uuid, (p->>'live')::boolean, id_at_{{v}}(due_at_, 'notice ' || dedupe_), kind_, customer, subscription,
           invoice, dedupe_, due_at_, clock, (p->>'now')::timestamptz, (p->>'now')::timestamptz
    ON CONFLICT DO NOTHING;
$$;
