-- Who is this key? The only question asked before a tenant is known, so it runs as the owner and sees all tenants' keys by
-- prefix; the caller compares the secret.
CREATE OR REPLACE FUNCTION api_keys_by_prefix_{{v}}(wanted text) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_agg(jsonb_build_object('tenant_id', k.tenant_id, 'live', k.live, 'key_id', k.key_id,
               'secret_hmac', encode(k.secret_hmac, 'hex'), 'scopes', k.scopes, 'tenant', t.slug,
               'expires_at', k.expires_at)), '[]')
      INTO found FROM api_keys k JOIN tenants t ON t.tenant_id = k.tenant_id
     WHERE k.prefix = wanted AND k.revoked_at IS NULL AND t.status = 'active';
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;
