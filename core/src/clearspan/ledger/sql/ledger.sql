-- The ledger takes what changed from the money path, in its transaction.
CREATE OR REPLACE FUNCTION ledger_post_{{v}}(p jsonb, before payment_intents, after payment_intents, op operations, fee_before bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    NULL;
END $$;
