-- Access tokens of /oauth/token: is what stands behind them still valid? And the refresh tokens. Like operators.sql: SECURITY
-- DEFINER, JSON in and out, times from the caller, hashes as hex.

-- {key_id}: an active key of an active tenant, without its secret; null when there is none. For tokens, which name the key.
CREATE OR REPLACE FUNCTION api_key_by_id_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    answer jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT jsonb_build_object('tenant_id', k.tenant_id, 'live', k.live, 'key_id', k.key_id, 'secret_hmac', '', 'scopes', k.scopes,
                              'tenant', t.slug, 'expires_at', k.expires_at)
      INTO answer FROM api_keys k JOIN tenants t USING (tenant_id)
     WHERE k.key_id = (p->>'key_id')::uuid AND k.revoked_at IS NULL AND t.status = 'active';
    PERFORM set_config('app.system', '', true);
    RETURN answer;
END $$;

-- {session_id, tenant_id, live, now}: whether the session of an access token is open, of an active person who is still a member of the
-- tenant. The money path asks this in its own transaction.
CREATE OR REPLACE FUNCTION operator_session_open_{{v}}(p jsonb) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    answer boolean;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    answer := EXISTS (
        SELECT FROM operator_sessions s JOIN operators o USING (operator_id) JOIN memberships m USING (operator_id)
         WHERE s.session_id = (p->>'session_id')::uuid AND s.ended_at IS NULL AND s.expires_at > (p->>'now')::timestamptz
           AND s.tenant_id = (p->>'tenant_id')::uuid AND s.live = (p->>'live')::boolean AND m.tenant_id = s.tenant_id
           AND o.status = 'active');
    PERFORM set_config('app.system', '', true);
    RETURN answer;
END $$;

-- A session's first refresh token: {hash, session_id, scopes, now, expires_at}.
CREATE OR REPLACE FUNCTION oauth_refresh_add_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    INSERT INTO oauth_refresh_tokens (token_hash, session_id, scopes, created_at, expires_at)
    VALUES (decode(p->>'hash', 'hex'), (p->>'session_id')::uuid, ARRAY(SELECT jsonb_array_elements_text(p->'scopes')),
            (p->>'now')::timestamptz, (p->>'expires_at')::timestamptz);
    PERFORM set_config('app.system', '', true);
    RETURN 'true';
END $$;

-- {hash, next, wanted: scopes or null, now, idle_before}: exchange a refresh token for the next one. null when it never was, is too old,
-- or its session is over; {scope: false}, and nothing is used, when more is wanted than it has; {reused: true} when it was used
-- before: then somebody else has it too, and the session ends; else {session_id, scopes}. Two at once: the row's lock lets one win,
-- and the other one is a reuse.
CREATE OR REPLACE FUNCTION oauth_refresh_use_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    held oauth_refresh_tokens;
    behind operator_sessions;
    answer jsonb;
    moment timestamptz := (p->>'now')::timestamptz;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT * INTO held FROM oauth_refresh_tokens WHERE token_hash = decode(p->>'hash', 'hex') FOR UPDATE;
    IF FOUND THEN
        SELECT * INTO STRICT behind FROM operator_sessions WHERE session_id = held.session_id FOR UPDATE;
        IF held.used_at IS NOT NULL THEN
            UPDATE operator_sessions SET ended_at = moment, ended_why = 'reuse'
             WHERE session_id = held.session_id AND ended_at IS NULL;
            answer := jsonb_build_object('reused', true, 'ended', FOUND, 'session_id', held.session_id,
                                         'operator_id', behind.operator_id);
        ELSIF behind.ended_at IS NOT NULL OR behind.expires_at <= moment OR held.expires_at <= moment
              OR behind.seen_at <= (p->>'idle_before')::timestamptz THEN
            answer := NULL;
        ELSIF jsonb_typeof(p->'wanted') = 'array' AND NOT (p->'wanted') <@ to_jsonb(held.scopes) THEN
            answer := jsonb_build_object('scope', false);
        ELSE
            UPDATE oauth_refresh_tokens SET used_at = moment WHERE token_hash = held.token_hash;
            INSERT INTO oauth_refresh_tokens (token_hash, session_id, scopes, created_at, expires_at)
            VALUES (decode(p->>'next', 'hex'), held.session_id, held.scopes, moment, held.expires_at);
            UPDATE operator_sessions SET seen_at = moment WHERE session_id = held.session_id;
            answer := jsonb_build_object('session_id', held.session_id, 'operator_id', behind.operator_id, 'scopes', held.scopes);
        END IF;
    END IF;
    PERFORM set_config('app.system', '', true);
    RETURN answer;
END $$;

-- {hash} or {session_id}, {now}: end the session of a refresh token, or this one of method token. Whose it was; null when none ended.
CREATE OR REPLACE FUNCTION oauth_session_end_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    answer jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operator_sessions SET ended_at = (p->>'now')::timestamptz, ended_why = 'revoked'
     WHERE method = 'token' AND ended_at IS NULL
       AND (session_id = (p->>'session_id')::uuid
            OR session_id = (SELECT t.session_id FROM oauth_refresh_tokens t WHERE t.token_hash = decode(p->>'hash', 'hex')))
    RETURNING jsonb_build_object('session_id', session_id, 'operator_id', operator_id) INTO answer;
    PERFORM set_config('app.system', '', true);
    RETURN answer;
END $$;
