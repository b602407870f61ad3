-- The directory: tenants by slug, for the command line, which knows no tenant yet. app.system opens the owner's policy for the
-- time of one query; the application's role has no such policy, so setting it there opens nothing.
CREATE OR REPLACE FUNCTION tenant_by_slug_{{v}}(wanted text) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    found uuid;
BEGIN
    PERFORM set_config('app.system', 'on', true);
    SELECT tenant_id INTO found FROM tenants WHERE slug = wanted;
    PERFORM set_config('app.system', '', true);
    RETURN found;
END $$;

CREATE OR REPLACE FUNCTION tenants_all_{{v}}() RETURNS SETOF tenants LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.system', 'on', true);
    RETURN QUERY SELECT * FROM tenants ORDER BY slug;
    PERFORM set_config('app.system', '', true);
END $$;
