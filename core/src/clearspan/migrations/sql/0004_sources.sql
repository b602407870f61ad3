-- What a charge is paid with besides a card in the vault: something a PSP holds, or whatever the payer chooses on its pages.

ALTER TABLE payment_methods
    ADD COLUMN kind text NOT NULL DEFAULT 'card' CHECK (kind IN ('card', 'token', 'redirect')),
    ADD COLUMN psp_account_id uuid, -- token, redirect: the only account that can charge it
    ADD COLUMN psp_token      text, -- token: what the PSP's own fields made; sent until the account keeps something of its own
    ADD COLUMN psp_method     text, -- redirect: the PSP's word for it, or null to let the payer choose there
    ALTER COLUMN vault DROP NOT NULL,
    ALTER COLUMN vault_token DROP NOT NULL,
    ALTER COLUMN brand DROP NOT NULL,
    ALTER COLUMN last4 DROP NOT NULL,
    ALTER COLUMN exp_month DROP NOT NULL,
    ALTER COLUMN exp_year DROP NOT NULL,
    ADD FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts,
    ADD CONSTRAINT payment_methods_of_a_kind CHECK (CASE kind
        WHEN 'card' THEN (vault, vault_token, brand, last4, exp_month, exp_year) IS NOT NULL AND psp_account_id IS NULL
        WHEN 'token' THEN psp_account_id IS NOT NULL AND psp_token IS NOT NULL AND vault_token IS NULL
        ELSE psp_account_id IS NOT NULL AND psp_token IS NULL AND vault_token IS NULL END);

-- What an account keeps of a method for later charges (Approved.stored_token): a card on file, a mandate.
CREATE TABLE payment_method_tokens (
    tenant_id         uuid        NOT NULL REFERENCES tenants,
    live              boolean     NOT NULL,
    payment_method_id uuid        NOT NULL,
    psp_account_id    uuid        NOT NULL,
    token             text        NOT NULL,
    operation_id      uuid        NOT NULL, -- whose answer brought it
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, payment_method_id, psp_account_id),
    FOREIGN KEY (tenant_id, live, payment_method_id) REFERENCES payment_methods,
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts,
    FOREIGN KEY (tenant_id, live, operation_id) REFERENCES operations
);
ALTER TABLE payment_method_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE payment_method_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON payment_method_tokens USING (tenant_id = app_tenant() AND live = app_live());
CREATE POLICY of_system ON payment_method_tokens FOR SELECT TO CURRENT_USER USING (app_system());
GRANT SELECT, INSERT, UPDATE ON payment_method_tokens TO {{app_role}};
