-- People who sign in. SECURITY DEFINER, since the application has no right on the tables: each function gives what one step
-- needs. All take and give JSON; times come from the caller, hashes as hex. {{v}} is the release.

-- An operator with every membership in an active tenant; null when there is none. Inside of the other functions only.
CREATE OR REPLACE FUNCTION operator_document_{{v}}(wanted uuid) RETURNS jsonb LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT to_jsonb(o) - 'totp_secret' - 'totp_pending' || jsonb_build_object(
        'totp_secret', encode(o.totp_secret, 'hex'), 'totp_pending', encode(o.totp_pending, 'hex'),
        'memberships', COALESCE((SELECT jsonb_agg(jsonb_build_object('tenant_id', t.tenant_id, 'slug', t.slug, 'name', t.name,
                                                  'role', m.role) ORDER BY t.name, t.slug)
                                   FROM memberships m JOIN tenants t USING (tenant_id)
                                  WHERE m.operator_id = o.operator_id AND t.status = 'active'), '[]'))
      FROM operators o WHERE o.operator_id = wanted
$$;
REVOKE EXECUTE ON FUNCTION operator_document_{{v}}(uuid) FROM PUBLIC;

-- {operator_id}, {email} or {issuer, subject}: who that is, with what signs them in; null when there is nobody.
CREATE OR REPLACE FUNCTION operator_find_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT operator_document_{{v}}(operator_id) INTO found FROM operators
     WHERE operator_id = (p->>'operator_id')::uuid OR email = p->>'email'
        OR (oidc_issuer = p->>'issuer' AND oidc_subject = p->>'subject');
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- A new operator: {operator_id, email, name, locale, timezone, now}. False when the e-mail address is taken.
CREATE OR REPLACE FUNCTION operator_add_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    added boolean;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    INSERT INTO operators (operator_id, email, name, locale, timezone, created_at)
    VALUES ((p->>'operator_id')::uuid, p->>'email', p->>'name', COALESCE(p->>'locale', 'en'), COALESCE(p->>'timezone', 'UTC'),
            (p->>'now')::timestamptz)
    ON CONFLICT (email) DO NOTHING;
    added := FOUND;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(added);
END $$;

-- {operator_id, version, set: {column: value}}: false when somebody else changed the operator since. Bytes as hex.
CREATE OR REPLACE FUNCTION operator_change_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    changed boolean;
    s jsonb := p->'set';
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operators SET
        name = COALESCE(s->>'name', name),
        status = COALESCE(s->>'status', status),
        locale = COALESCE(s->>'locale', locale),
        timezone = COALESCE(s->>'timezone', timezone),
        preferences = COALESCE(s->'preferences', preferences),
        password_hash = CASE WHEN s ? 'password_hash' THEN s->>'password_hash' ELSE password_hash END,
        password_at = CASE WHEN s ? 'password_at' THEN (s->>'password_at')::timestamptz ELSE password_at END,
        totp_secret = CASE WHEN s ? 'totp_secret' THEN decode(s->>'totp_secret', 'hex') ELSE totp_secret END,
        totp_pending = CASE WHEN s ? 'totp_pending' THEN decode(s->>'totp_pending', 'hex') ELSE totp_pending END,
        recovery_codes = CASE WHEN s ? 'recovery_codes'
            THEN ARRAY(SELECT jsonb_array_elements_text(s->'recovery_codes')) ELSE recovery_codes END,
        oidc_issuer = CASE WHEN s ? 'oidc_issuer' THEN s->>'oidc_issuer' ELSE oidc_issuer END,
        oidc_subject = CASE WHEN s ? 'oidc_subject' THEN s->>'oidc_subject' ELSE oidc_subject END,
        signed_in_at = COALESCE((s->>'signed_in_at')::timestamptz, signed_in_at),
        version = version + 1
     WHERE operator_id = (p->>'operator_id')::uuid AND version = COALESCE((p->>'version')::integer, version);
    changed := FOUND;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(changed);
END $$;

-- {operator_id, step}: whether the 30-second step is newer than the last one used, which it then is. A code works once.
CREATE OR REPLACE FUNCTION operator_totp_use_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    fresh boolean;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operators SET totp_step = (p->>'step')::bigint
     WHERE operator_id = (p->>'operator_id')::uuid AND totp_step < (p->>'step')::bigint;
    fresh := FOUND;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(fresh);
END $$;

-- {operator_id, code}: whether this recovery code was there, which it then is no longer.
CREATE OR REPLACE FUNCTION operator_recovery_use_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    fresh boolean;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operators SET recovery_codes = array_remove(recovery_codes, p->>'code'), version = version + 1
     WHERE operator_id = (p->>'operator_id')::uuid AND p->>'code' = ANY (recovery_codes);
    fresh := FOUND;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(fresh);
END $$;

-- How many people there are; whoever sees none may make the first owner's link.
CREATE OR REPLACE FUNCTION operators_count_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    counted bigint;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT count(*) INTO counted FROM operators;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(counted);
END $$;

-- The members of the tenant that is entered (app.tenant), without anything that signs them in.
CREATE OR REPLACE FUNCTION operators_of_tenant_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
    wanted uuid := app_tenant();
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_agg(jsonb_build_object('operator_id', o.operator_id, 'email', o.email, 'name', o.name, 'role', m.role,
               'status', o.status, 'totp', o.totp_secret IS NOT NULL, 'oidc', o.oidc_issuer IS NOT NULL,
               'signed_in_at', o.signed_in_at, 'member_since', m.created_at, 'version', m.version) ORDER BY o.name, o.email), '[]')
      INTO found FROM memberships m JOIN operators o USING (operator_id) WHERE m.tenant_id = wanted;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- A new session: {hash, session_id, operator_id, method, tenant_id, live, now, expires_at, strong_at, ip, agent}.
CREATE OR REPLACE FUNCTION operator_session_add_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    INSERT INTO operator_sessions (session_hash, session_id, operator_id, method, tenant_id, live, created_at, seen_at, expires_at,
                                   strong_at, ip, agent)
    VALUES (decode(p->>'hash', 'hex'), (p->>'session_id')::uuid, (p->>'operator_id')::uuid, p->>'method', (p->>'tenant_id')::uuid,
            (p->>'live')::boolean, (p->>'now')::timestamptz, (p->>'now')::timestamptz, (p->>'expires_at')::timestamptz,
            (p->>'strong_at')::timestamptz, p->>'ip', left(p->>'agent', 300));
    UPDATE operators SET signed_in_at = (p->>'now')::timestamptz WHERE operator_id = (p->>'operator_id')::uuid;
    PERFORM set_config('app.system', '', true);
    RETURN 'true';
END $$;

-- {hash or session_id, now, idle_before, touch}: the session that is open, with its operator, and seen now; null when there is none. A
-- session idle since before {idle_before}, expired, ended, or of somebody disabled is none. Seen is written at most twice a minute.
CREATE OR REPLACE FUNCTION operator_session_find_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    answer jsonb;
    s operator_sessions;
    moment timestamptz := (p->>'now')::timestamptz;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT * INTO s FROM operator_sessions
     WHERE (session_hash = decode(p->>'hash', 'hex') OR session_id = (p->>'session_id')::uuid) AND ended_at IS NULL
       AND expires_at > moment AND seen_at > (p->>'idle_before')::timestamptz;
    IF FOUND THEN
        SELECT operator_document_{{v}}(s.operator_id) INTO answer;
        IF answer->>'status' = 'active' THEN
            IF COALESCE((p->>'touch')::boolean, true) AND s.seen_at < moment - interval '30 seconds' THEN
                UPDATE operator_sessions SET seen_at = moment WHERE session_hash = s.session_hash;
            END IF;
            answer := jsonb_build_object('session', to_jsonb(s) - 'session_hash', 'operator', answer);
        ELSE
            answer := NULL;
        END IF;
    END IF;
    PERFORM set_config('app.system', '', true);
    RETURN answer;
END $$;

-- {session_id, set: {tenant_id, live, strong_at}}.
CREATE OR REPLACE FUNCTION operator_session_change_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    changed boolean;
    s jsonb := p->'set';
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operator_sessions SET
        tenant_id = COALESCE((s->>'tenant_id')::uuid, tenant_id),
        live = COALESCE((s->>'live')::boolean, live),
        strong_at = COALESCE((s->>'strong_at')::timestamptz, strong_at)
     WHERE session_id = (p->>'session_id')::uuid AND ended_at IS NULL;
    changed := FOUND;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(changed);
END $$;

-- {operator_id, session_id: one of theirs or null for all, except: a session to keep, now, why}: how many were ended.
CREATE OR REPLACE FUNCTION operator_sessions_end_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    ended integer;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operator_sessions SET ended_at = (p->>'now')::timestamptz, ended_why = p->>'why'
     WHERE operator_id = (p->>'operator_id')::uuid AND ended_at IS NULL
       AND (p->>'session_id' IS NULL OR session_id = (p->>'session_id')::uuid)
       AND (p->>'except' IS NULL OR session_id <> (p->>'except')::uuid);
    GET DIAGNOSTICS ended = ROW_COUNT;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(ended);
END $$;

-- {operator_id, now, idle_before}: their open sessions, newest first.
CREATE OR REPLACE FUNCTION operator_sessions_of_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_agg(to_jsonb(s) - 'session_hash' ORDER BY s.created_at DESC), '[]') INTO found
      FROM operator_sessions s
     WHERE s.operator_id = (p->>'operator_id')::uuid AND s.ended_at IS NULL AND s.expires_at > (p->>'now')::timestamptz
       AND s.seen_at > (p->>'idle_before')::timestamptz;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- A new one-time link: {hash, link_id, purpose, operator_id, email, tenant_id, role, created_by, now, expires_at}. Older unused ones
-- for the same purpose and person end.
CREATE OR REPLACE FUNCTION operator_link_add_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operator_links SET expires_at = (p->>'now')::timestamptz
     WHERE purpose = p->>'purpose' AND used_at IS NULL AND expires_at > (p->>'now')::timestamptz
       AND operator_id IS NOT DISTINCT FROM (p->>'operator_id')::uuid AND email = COALESCE(p->>'email', '')
       AND tenant_id IS NOT DISTINCT FROM (p->>'tenant_id')::uuid;
    INSERT INTO operator_links (link_hash, link_id, purpose, operator_id, email, tenant_id, role, created_by, created_at, expires_at)
    VALUES (decode(p->>'hash', 'hex'), (p->>'link_id')::uuid, p->>'purpose', (p->>'operator_id')::uuid, COALESCE(p->>'email', ''),
            (p->>'tenant_id')::uuid, p->>'role', COALESCE(p->>'created_by', ''), (p->>'now')::timestamptz,
            (p->>'expires_at')::timestamptz);
    PERFORM set_config('app.system', '', true);
    RETURN 'true';
END $$;

-- {hash, now, use}: the link that can be used, and that it is used when {use}; null when there is none. Two at once: one gets it.
CREATE OR REPLACE FUNCTION operator_link_find_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    IF (p->>'use')::boolean THEN
        UPDATE operator_links l SET used_at = (p->>'now')::timestamptz
         WHERE link_hash = decode(p->>'hash', 'hex') AND used_at IS NULL AND expires_at > (p->>'now')::timestamptz
        RETURNING to_jsonb(l) - 'link_hash' INTO found;
    ELSE
        SELECT to_jsonb(l) - 'link_hash' INTO found FROM operator_links l
         WHERE link_hash = decode(p->>'hash', 'hex') AND used_at IS NULL AND expires_at > (p->>'now')::timestamptz;
    END IF;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- {hash}: whose session this is or was, where it looked, and whether it is not ended. Only whoever has the cookie can ask. It tells who
-- comes back to a form that waited longer than their session, and opens nothing.
CREATE OR REPLACE FUNCTION operator_session_owner_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT jsonb_build_object('operator_id', operator_id, 'session_id', session_id, 'tenant_id', tenant_id, 'live', live,
               'ended', ended_at IS NOT NULL)
      INTO found FROM operator_sessions WHERE session_hash = decode(p->>'hash', 'hex');
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- {now}: the open invitations of the tenant that is entered (app.tenant), newest first.
CREATE OR REPLACE FUNCTION operator_invitations_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
    wanted uuid := app_tenant();
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT COALESCE(jsonb_agg(jsonb_build_object('link_id', l.link_id, 'email', l.email, 'role', l.role, 'created_by', l.created_by,
               'created_at', l.created_at, 'expires_at', l.expires_at) ORDER BY l.created_at DESC), '[]')
      INTO found FROM operator_links l
     WHERE l.tenant_id = wanted AND l.purpose = 'invitation' AND l.used_at IS NULL AND l.expires_at > (p->>'now')::timestamptz;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

-- {link_id, now}: whether this invitation of the tenant that is entered (app.tenant) was open, which it is no longer.
CREATE OR REPLACE FUNCTION operator_invitation_end_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    ended boolean;
    wanted uuid := app_tenant();
BEGIN
    PERFORM set_config('app.system', 'on', true);
    UPDATE operator_links SET expires_at = (p->>'now')::timestamptz
     WHERE link_id = (p->>'link_id')::uuid AND tenant_id = wanted AND purpose = 'invitation' AND used_at IS NULL
       AND expires_at > (p->>'now')::timestamptz;
    ended := FOUND;
    PERFORM set_config('app.system', '', true);
    RETURN to_jsonb(ended);
END $$;

-- {account, address, now, since, account_max, address_max}: a try to sign in begins, and counts as failed until sign_in_done says
-- otherwise, so that many at once do not pass the limit together: {seq, failed: of the account before it}. Over a limit nothing is
-- noted: {wait_since: when the failure was made that has to grow old first}.
CREATE OR REPLACE FUNCTION sign_in_try_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    whose bytea := decode(p->>'account', 'hex');
    whence bytea := decode(p->>'address', 'hex');
    since timestamptz := (p->>'since')::timestamptz;
    succeeded timestamptz;
    failed bigint;
    blocked timestamptz;
    added bigint;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    -- Always in this order; the keys are of two different spaces.
    PERFORM pg_advisory_xact_lock(hashtextextended('sign-in address ' || (p->>'address'), 0));
    PERFORM pg_advisory_xact_lock(hashtextextended('sign-in account ' || (p->>'account'), 0));
    SELECT max(t.at) INTO succeeded FROM sign_in_tries t WHERE t.account = whose AND t.ok;
    SELECT count(*) INTO failed FROM sign_in_tries t
     WHERE t.account = whose AND NOT t.ok AND t.at > GREATEST(since, succeeded);
    IF failed >= (p->>'account_max')::bigint THEN
        SELECT t.at INTO blocked FROM sign_in_tries t WHERE t.account = whose AND NOT t.ok
         ORDER BY t.at DESC OFFSET (p->>'account_max')::bigint - 1 LIMIT 1;
    ELSE
        SELECT t.at INTO blocked FROM sign_in_tries t WHERE t.address = whence AND NOT t.ok AND t.at > since
         ORDER BY t.at DESC OFFSET (p->>'address_max')::bigint - 1 LIMIT 1;
    END IF;
    IF blocked IS NULL THEN
        DELETE FROM sign_in_tries t WHERE t.account = whose AND t.at < since - interval '1 day';
        DELETE FROM sign_in_tries t WHERE t.address = whence AND t.at < since - interval '1 day';
        INSERT INTO sign_in_tries (at, account, address, ok) VALUES ((p->>'now')::timestamptz, whose, whence, false)
        RETURNING seq INTO added;
    END IF;
    PERFORM set_config('app.system', '', true);
    RETURN jsonb_build_object('seq', added, 'failed', failed, 'wait_since', blocked);
END $$;

-- {seq, ok}: the try went well, which ends the count of its account (ok), or is not to count (not ok): the code has yet to come.
CREATE OR REPLACE FUNCTION sign_in_done_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    IF (p->>'ok')::boolean THEN
        UPDATE sign_in_tries SET ok = true WHERE seq = (p->>'seq')::bigint;
    ELSE
        DELETE FROM sign_in_tries WHERE seq = (p->>'seq')::bigint;
    END IF;
    PERFORM set_config('app.system', '', true);
    RETURN 'true';
END $$;
