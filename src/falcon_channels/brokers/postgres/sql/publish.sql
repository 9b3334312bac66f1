-- The function "publish", for SQL of an application, and the functions that it calls.
-- {schema} is replaced by the name of the schema.

-- Encode text or bytes as MessagePack.
CREATE OR REPLACE FUNCTION {schema}.pack(p_bytes bytea, p_is_text boolean) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_length integer := octet_length(p_bytes);
    v_head text;
BEGIN
    IF p_is_text AND v_length < 32 THEN
        v_head := to_hex(160 + v_length);
    ELSIF v_length < 256 THEN
        v_head := CASE WHEN p_is_text THEN 'd9' ELSE 'c4' END
            || lpad(to_hex(v_length), 2, '0');
    ELSIF v_length < 65536 THEN
        v_head := CASE WHEN p_is_text THEN 'da' ELSE 'c5' END
            || lpad(to_hex(v_length), 4, '0');
    ELSE
        v_head := CASE WHEN p_is_text THEN 'db' ELSE 'c6' END
            || lpad(to_hex(v_length), 8, '0');
    END IF;
    RETURN decode(v_head, 'hex') || p_bytes;
END
$$;

-- Encode a publication that has only data. Its length always has four bytes.
--
-- PERF: PostgreSQL prepares each function of an expression again in each transaction. This
-- expression has few, and the function is in SQL, so that it is put into the expression of
-- the caller.
CREATE OR REPLACE FUNCTION {schema}.encode_data(p_data bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT '\x91c6'::bytea || int4send(octet_length(p_data)) || p_data
$$;

-- Encode a publication like the module "encoding" of the package: an array of the data, the
-- time, whether it is binary, the tags, the client, the end, and whether it is sent whole.
CREATE OR REPLACE FUNCTION {schema}.encode_publication(
    p_data bytea, p_tags jsonb, p_whole boolean
) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_count integer;
    v_tags bytea := '\xc0';
BEGIN
    IF p_tags IS NULL AND NOT p_whole THEN
        RETURN {schema}.encode_data(p_data);
    END IF;
    IF p_tags IS NOT NULL THEN
        SELECT count(*), coalesce(string_agg(
            {schema}.pack(convert_to(t.key, 'UTF8'), true)
            || {schema}.pack(convert_to(t.value, 'UTF8'), true), ''
        ), '') INTO v_count, v_tags FROM jsonb_each_text(p_tags) AS t;
        v_tags := '\xde'::bytea || decode(lpad(to_hex(v_count), 4, '0'), 'hex') || v_tags;
    END IF;
    RETURN '\x97'::bytea || {schema}.pack(p_data, false) || '\x00c2'::bytea || v_tags
           || '\xc0c0'::bytea || CASE WHEN p_whole THEN '\xc3' ELSE '\xc2' END::bytea;
END
$$;

-- Return whether text may break a limit of "check_json". The conditions are quick, and rarely
-- true for other text.
--
-- PERF: "replace" is ten times as fast as "translate", and the search for 200 digits is the
-- slowest condition. The search for an exponent needs the whole number before it, because a
-- fifth of all UUIDs have an "e" with three digits after it. A number with an exponent of two
-- digits needs 210 digits before it to be too large, so shorter text is not searched. This
-- function is in SQL, so PostgreSQL puts it into the expression of the caller.
CREATE OR REPLACE FUNCTION {schema}.may_break_limits(p_data text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT octet_length(replace(replace(p_data, '[', ''), '{', ''))
           < octet_length(p_data) - 32
           OR p_data ~ '(^|[[:space:],:[])-?[0-9.]+[eE][+]?[0-9]{3}'
           OR (octet_length(p_data) >= 213 AND p_data ~ '[0-9]{200}')
$$;

-- Check that text is JSON that every client can read. The limits are those of all publishers:
-- at most 32 levels, and no number outside the range of a double.
CREATE OR REPLACE FUNCTION {schema}.check_json(p_data text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_data jsonb := p_data::jsonb;
BEGIN
    IF NOT {schema}.may_break_limits(p_data) THEN
        RETURN;
    END IF;
    IF jsonb_path_exists(
        v_data, 'strict $.**{32} ? (@.type() == "array" || @.type() == "object")'
    ) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'JSON nests deeper than 32 levels';
    END IF;
    IF jsonb_path_exists(
        v_data, 'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308'
        ' || @ < -1.7976931348623157e308))'
    ) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'JSON has a number outside the range of a double';
    END IF;
END
$$;

-- Publish JSON text, and check everything. "publish" has handled most publishes already.
CREATE OR REPLACE FUNCTION {schema}.publish_any(
    channel text, data text, tags jsonb, idempotency_key text, version bigint,
    version_epoch text, delta boolean,
    OUT "offset" bigint, OUT epoch text, OUT duplicate boolean, OUT skipped boolean
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    v_name bytea := convert_to(channel, 'UTF8');
    v_data bytea := convert_to(data, 'UTF8');
    v_key bytea := convert_to(idempotency_key, 'UTF8');
    v_epoch bytea := convert_to(version_epoch, 'UTF8');
    v_special boolean := idempotency_key IS NOT NULL OR version IS NOT NULL;
    v_route record;
    v_size bigint;
    v_body bytea;
    v_refused text;
BEGIN
    IF channel IS NULL OR octet_length(v_name) NOT BETWEEN 1 AND 255
       OR channel ~ '^[/[:space:]]|[[:space:]]$|[[:cntrl:]]'
       OR (getdatabaseencoding() = 'UTF8' AND channel IS NOT NFC NORMALIZED) THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'channel name %L must have 1 to 255 bytes in Unicode normal form C, no slash at '
            'its start, no white space at its ends, and no control characters',
            left(channel, 80)
        );
    END IF;
    IF data IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'data is NULL, and must be JSON';
    END IF;
    -- Both tables are read in one statement, so that the version is that of the route.
    SELECT r.*, s.routes_version, CASE WHEN s.trusted THEN '' END AS run INTO v_route
    FROM {schema}.routes AS r, {schema}.settings AS s
    WHERE starts_with(channel, r.prefix) AND channel ~ r.pattern
    ORDER BY r.rank, r.changed_ms DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('no route matches channel %L', left(channel, 80)),
            HINT = 'A process of the application stores its routes when it starts: add the '
                   'route to Channels, and start a process.';
    END IF;
    IF jsonb_path_exists(tags, 'strict $ ? (@.type() != "object")')
       OR jsonb_path_exists(tags, 'strict $.* ? (@.type() != "string")', '{}', true) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'tags must be a JSON object whose values are text';
    END IF;
    SELECT octet_length(v_data)
           + coalesce(sum(octet_length(convert_to(t.key || t.value, 'UTF8'))), 0)
    INTO v_size FROM jsonb_each_text(tags) AS t;
    IF v_size > v_route.max_bytes THEN
        RAISE program_limit_exceeded USING MESSAGE = format(
            'publication of %s bytes exceeds max_publication_bytes of %s',
            v_size, v_route.max_bytes
        );
    END IF;
    PERFORM {schema}.check_json(data);
    IF octet_length(v_key) NOT BETWEEN 1 AND 255 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'an idempotency key must have 1 to 255 bytes of UTF-8';
    END IF;
    IF version < 0 OR version_epoch IS NULL OR octet_length(v_epoch) > 255 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'version must be 0 or higher, and version_epoch must be text of at '
                      'most 255 bytes of UTF-8';
    END IF;
    IF version IS NULL AND version_epoch <> '' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'version_epoch needs a version beside it';
    END IF;
    IF version IS NOT NULL AND v_route.size = 0 THEN
        RAISE feature_not_supported USING MESSAGE = format(
            'a version needs a log, and the route %L has none: add it with '
            'ChannelOptions(history_size=...)', v_route.template
        );
    END IF;
    v_body := {schema}.encode_publication(v_data, tags, delta IS FALSE);
    SELECT b."offset", b.epoch, b.duplicate, b.refused
    INTO "offset", epoch, duplicate, v_refused
    FROM {schema}.publish_batch(
        NULL, false, v_route.run,
        ARRAY[
            octet_length(v_name), 1, v_special::integer, v_route.size, v_route.ttl_ms,
            v_route.meta_ms, v_route.key_ms, octet_length(v_body)
        ] || CASE WHEN v_special THEN ARRAY[
            coalesce(octet_length(v_key), -1), coalesce(version, -1),
            octet_length(v_epoch), -1
        ]::bigint[] ELSE '{}' END,
        v_name || v_body || coalesce(v_key, '') || v_epoch
    ) AS b;
    IF v_refused = 'ended' THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format(
            'the channel %L is finished: nothing can be published to it until '
            'remove_history opens it again', left(channel, 80)
        );
    END IF;
    skipped := v_refused IS NOT NULL;
    IF v_route.size > 0 AND tags IS NULL AND NOT v_special THEN
        -- "publish" handles the next publications of this channel.
        UPDATE {schema}.channels AS c
        SET routes_version = v_route.routes_version, size = v_route.size,
            max_bytes = v_route.max_bytes, ttl_ms = nullif(v_route.ttl_ms, -1),
            meta_ms = nullif(v_route.meta_ms, -1)
        WHERE c.name = v_name AND c.routes_version IS DISTINCT FROM v_route.routes_version;
    END IF;
END
$$;

-- Publish JSON text in the transaction of the caller.
--
-- The function has the rights of its owner. A user that may use the schema can therefore
-- publish, but not read.
--
-- SECURITY: all names have a schema or are those of "pg_catalog". Otherwise, a caller could
-- replace a function, and execute its own code with the rights of the owner.
--
-- PERF: without "random_page_cost", PostgreSQL reads all rows of a short table of channels,
-- also the old versions of the rows. A publish would take up to 10 us longer.
CREATE OR REPLACE FUNCTION {schema}.publish(
    channel text, data text, tags jsonb DEFAULT NULL, idempotency_key text DEFAULT NULL,
    version bigint DEFAULT NULL, version_epoch text DEFAULT '', delta boolean DEFAULT true,
    OUT "offset" bigint, OUT epoch text, OUT duplicate boolean, OUT skipped boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET random_page_cost = 0 AS $$
#variable_conflict use_variable
DECLARE
    v_id bigint;
    v_now bigint;
    v_ttl_ms bigint;
    v_trim boolean;
    v_more boolean;
BEGIN
    -- PERF: PostgreSQL prepares each statement, and each function in it, again in each
    -- transaction. Most publishes are therefore a few short ones
    -- (benchmarks/postgres_publish.py). The first statement succeeds if "publish_any" has
    -- stored the settings of the route in the log, and if they are still valid. The name of
    -- the channel is then valid, too.
    --
    -- The conversion of "$2" fails if the data is not JSON. It follows the check of the
    -- limits, because it could exceed the size of the stack.
    IF tags IS NULL AND idempotency_key IS NULL AND version IS NULL AND version_epoch = ''
       AND delta AND NOT {schema}.may_break_limits(data) AND $2::jsonb IS NOT NULL THEN
        UPDATE {schema}.channels AS c
        SET top = c.top + 1, forget_ms = {schema}.now_ms() + c.meta_ms
        WHERE c.name = convert_to(channel, 'UTF8')
              AND octet_length(convert_to(data, 'UTF8')) <= c.max_bytes
              AND c.routes_version = (
                  SELECT s.routes_version FROM {schema}.settings AS s
                  WHERE s.trusted OR (
                      s.started = pg_postmaster_start_time()
                      AND right(s.run, 1 + length(s.tableoid::text)) = '-' || s.tableoid
                  )
              )
              AND (c.forget_ms > {schema}.now_ms() OR c.forget_ms IS NULL)
              AND c.ended IS NULL
        RETURNING c.id, c.top, c.epoch, c.ttl_ms, {schema}.now_ms(), c.top % 16 = 0,
                  false, false
        INTO v_id, "offset", epoch, v_ttl_ms, v_now, v_trim, duplicate, skipped;
    END IF;
    IF v_id IS NULL THEN
        SELECT p."offset", p.epoch, p.duplicate, p.skipped
        INTO "offset", epoch, duplicate, skipped
        FROM {schema}.publish_any($1, data, $3, $4, $5, $6, $7) AS p;
        RETURN;
    END IF;
    INSERT INTO {schema}.items (channel, "offset", stored_ms, until_ms, body)
    VALUES (
        v_id, "offset", v_now, v_now + v_ttl_ms,
        {schema}.encode_data(convert_to(data, 'UTF8'))
    )
    RETURNING v_trim OR NOT {schema}.try_poll_lock() INTO v_more;
    IF NOT v_more THEN
        RETURN;
    END IF;
    IF NOT {schema}.all_poll() THEN
        PERFORM pg_notify(
            (SELECT s.notify FROM {schema}.settings AS s),
            '#' || pg_current_xact_id() || '|p'
            || encode(convert_to(channel, 'UTF8'), 'hex') || ' ' || "offset" || ' '
            || epoch || ' ' || v_now || ' '
            || CASE WHEN octet_length(convert_to(data, 'UTF8')) < 5000
                    THEN encode({schema}.encode_data(convert_to(data, 'UTF8')), 'base64')
                    ELSE '@' END
        );
    END IF;
    IF v_trim THEN
        UPDATE {schema}.channels AS c
        SET low = {schema}.trim_log(
            c.id, c.low, least(c.top - c.size, c.low + 1000), v_now
        )
        WHERE c.id = v_id AND c.top - c.size - c.low > c.size / 8;
    END IF;
END
$$;

-- Publish JSON. The functions are copies of the one for text, with the text in a variable.
--
-- PERF: if they called it, a publish would take 8 us longer.
DO $do$
DECLARE
    v_text text := replace(
        pg_get_functiondef(
            '{schema}.publish(text, text, jsonb, text, bigint, text, boolean)'::regprocedure
        ),
        E'DECLARE\n', E'DECLARE\n    data text := $2::text;\n'
    );
BEGIN
    EXECUTE replace(v_text, ', data text,', ', data json,');
    EXECUTE replace(v_text, ', data text,', ', data jsonb,');
END
$do$;

-- Return rows for the table of routes. Each element of "p_rows" has the values of the columns
-- in their order, without the times.
CREATE OR REPLACE FUNCTION {schema}.read_routes(p_rows jsonb)
RETURNS SETOF {schema}.routes
LANGUAGE sql VOLATILE AS $$
    SELECT v->>0, v->>1, v->>2, v->>3, (v->>4)::bigint, (v->>5)::bigint, (v->>6)::bigint,
           (v->>7)::bigint, (v->>8)::bigint, {schema}.now_ms(), {schema}.now_ms() + 604800000
    FROM jsonb_array_elements($1) AS v ORDER BY v->>0
$$;

-- Renew the routes of a process, without a change of their settings. Another process may
-- have stored newer ones.
CREATE OR REPLACE FUNCTION {schema}.renew_routes(p_rows jsonb) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO {schema}.routes AS r SELECT * FROM {schema}.read_routes($1)
    ON CONFLICT (template) DO UPDATE SET until_ms = excluded.until_ms
$$;

-- Store the routes of a process that starts or has a new route, and whether a fail-over
-- loses nothing.
CREATE OR REPLACE FUNCTION {schema}.set_routes(p_trusted boolean, p_rows jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM {schema}.renew_routes(p_rows);
    UPDATE {schema}.routes AS r
    SET prefix = n.prefix, pattern = n.pattern, rank = n.rank, size = n.size,
        ttl_ms = n.ttl_ms, meta_ms = n.meta_ms, key_ms = n.key_ms,
        max_bytes = n.max_bytes, changed_ms = n.changed_ms
    FROM {schema}.read_routes(p_rows) AS n
    WHERE r.template = n.template
      AND (r.prefix, r.pattern, r.rank, r.size, r.ttl_ms, r.meta_ms, r.key_ms, r.max_bytes)
          IS DISTINCT FROM (
              n.prefix, n.pattern, n.rank, n.size, n.ttl_ms, n.meta_ms, n.key_ms,
              n.max_bytes
          );
    -- The settings are locked last. The sweep also locks them after the routes.
    UPDATE {schema}.settings
    SET trusted = p_trusted, routes_version = routes_version + 1
    WHERE trusted <> p_trusted;
    PERFORM {schema}.store_run_id();
END
$$;
