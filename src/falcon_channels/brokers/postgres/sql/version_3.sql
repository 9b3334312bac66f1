-- Changes the tables of version 2 to those of version 3.

COMMENT ON SCHEMA {schema} IS 'falcon-channels 3';

-- A route expires if no process has renewed it for seven days.
ALTER TABLE {schema}.routes ADD until_ms bigint;
UPDATE {schema}.routes
SET until_ms = floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 604800000;
ALTER TABLE {schema}.routes ALTER until_ms SET NOT NULL;
