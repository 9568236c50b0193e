-- The roles of docker-compose.yml, made with a new volume: posthaste_owner has the database and migrates, posthaste runs (and is
-- granted what that needs by `posthaste migrate`). Again, after a change of passwords, with psql as the administrator; docs/operations.md.
\set ON_ERROR_STOP on
\getenv owner_password OWNER_PASSWORD
\getenv run_password RUN_PASSWORD
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['posthaste_owner', 'posthaste']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE posthaste_owner PASSWORD :'owner_password';
ALTER ROLE posthaste PASSWORD :'run_password';
ALTER DATABASE posthaste OWNER TO posthaste_owner;
