-- Changes the tables of version 4 to those of version 5.

COMMENT ON SCHEMA {schema} IS 'falcon-channels 5';

-- Each change of the routes, of "trusted" or of "run" increments "routes_version".
ALTER TABLE {schema}.settings ADD routes_version bigint NOT NULL DEFAULT 1;

-- The settings of the route of a channel, for publishes from SQL. They are valid while
-- "routes_version" is the one in the table "settings". The column "run" is then valid, too.
ALTER TABLE {schema}.channels
    ADD routes_version bigint, ADD size bigint, ADD max_bytes bigint, ADD ttl_ms bigint,
    ADD meta_ms bigint;

CREATE FUNCTION {schema}.count_routes_version() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {schema}.settings SET routes_version = routes_version + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER routes_change
AFTER INSERT OR DELETE
    OR UPDATE OF template, prefix, pattern, rank, size, ttl_ms, meta_ms, key_ms,
                 max_bytes, changed_ms
ON {schema}.routes FOR EACH ROW EXECUTE FUNCTION {schema}.count_routes_version();
