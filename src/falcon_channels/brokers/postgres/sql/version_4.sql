-- Changes the tables of version 3 to those of version 4.

COMMENT ON SCHEMA {schema} IS 'falcon-channels 4';

-- The transaction that has stored a publication. Processes that poll find new publications
-- by their transactions. There are two statements, so that existing rows are not written
-- again.
ALTER TABLE {schema}.items ADD xid xid8;
ALTER TABLE {schema}.items ALTER xid SET DEFAULT pg_current_xact_id();
CREATE INDEX items_xid ON {schema}.items (xid) WHERE xid IS NOT NULL;

-- "run" is the identity of the server that started at "started".
ALTER TABLE {schema}.settings ADD run text, ADD started timestamptz;

-- A process of version 3 that still runs would miss publications without a notification.
-- Without this function, it notices that it receives none.
DROP FUNCTION IF EXISTS {schema}.notify_name();
