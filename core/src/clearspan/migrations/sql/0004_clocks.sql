-- A test clock for everybody: customers that are made while it covers the tenant live by it, unless they name another.
ALTER TABLE test_clocks ADD COLUMN covers text NOT NULL DEFAULT 'customers' CHECK (covers IN ('customers', 'tenant'));
CREATE UNIQUE INDEX one_clock_covers_the_tenant ON test_clocks (tenant_id, live) WHERE covers = 'tenant';
