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
        RETURN '\x91'::bytea || {schema}.pack(p_data, false);
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

-- Check that text is JSON that every client can read. The limits are those of all publishers:
-- at most 32 levels, and no number outside the range of a double.
CREATE OR REPLACE FUNCTION {schema}.check_json(p_data text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_data jsonb := p_data::jsonb;
BEGIN
    -- The searches are slow. The conditions before them are quick, and rarely true.
    IF octet_length(p_data) - octet_length(translate(p_data, '[{', '')) > 32
       AND jsonb_path_exists(
           v_data, 'strict $.**{32} ? (@.type() == "array" || @.type() == "object")'
       ) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'JSON nests deeper than 32 levels';
    END IF;
    IF p_data ~ '[0-9]{200}|[eE][+]?[0-9]{3}' AND jsonb_path_exists(
        v_data, 'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308'
        ' || @ < -1.7976931348623157e308))'
    ) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'JSON has a number outside the range of a double';
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
CREATE OR REPLACE FUNCTION {schema}.publish(
    channel text, data text, tags jsonb DEFAULT NULL, idempotency_key text DEFAULT NULL,
    version bigint DEFAULT NULL, version_epoch text DEFAULT '', delta boolean DEFAULT true,
    OUT "offset" bigint, OUT epoch text, OUT duplicate boolean, OUT skipped boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_name bytea := convert_to(channel, 'UTF8');
    v_data bytea := convert_to(data, 'UTF8');
    v_key bytea := convert_to(idempotency_key, 'UTF8');
    v_epoch bytea := convert_to(version_epoch, 'UTF8');
    v_special boolean := idempotency_key IS NOT NULL OR version IS NOT NULL;
    v_route {schema}.routes;
    v_size bigint;
    v_run text;
    v_body bytea;
    v_refused text;
    v_log record;
BEGIN
    -- PERF: most publishes are these few statements. PostgreSQL prepares each expression
    -- again in each transaction, so a transaction takes half the CPU time that it takes
    -- with the statements below (benchmarks/postgres_publish.py). They check each rule on
    -- its own, and handle all other publishes and all errors.
    WITH given AS MATERIALIZED (
        SELECT r.size, r.max_bytes, nullif(r.ttl_ms, -1) AS ttl_ms,
               nullif(r.meta_ms, -1) AS meta_ms, s.notify,
               CASE WHEN s.trusted THEN ''
                    WHEN s.started = pg_postmaster_start_time() THEN s.run END AS run,
               CASE WHEN octet_length(v_data) < 256
                    THEN '\x91c4'::bytea || substring(int4send(octet_length(v_data)), 4)
                    ELSE '\x91c5'::bytea || substring(int4send(octet_length(v_data)), 3)
               END || v_data AS body
        FROM {schema}.routes AS r, {schema}.settings AS s
        WHERE starts_with(channel, r.prefix) AND channel ~ r.pattern
              AND octet_length(v_name) BETWEEN 1 AND 255
              AND channel !~ '^[/[:space:]]|[[:space:]]$|[[:cntrl:]]'
              AND (getdatabaseencoding() <> 'UTF8' OR channel IS NFC NORMALIZED)
              AND octet_length(v_data) <= 5000
              AND octet_length(data) - octet_length(translate(data, '[{', '')) <= 32
              AND data !~ '[0-9]{200}|[eE][+]?[0-9]{3}' AND data::jsonb IS NOT NULL
              AND tags IS NULL AND NOT v_special AND version_epoch = '' AND delta
        ORDER BY r.rank, r.changed_ms DESC LIMIT 1
    ), log AS (
        UPDATE {schema}.channels AS c
        SET top = c.top + 1, forget_ms = {schema}.now_ms() + g.meta_ms
        FROM given AS g
        WHERE c.name = v_name AND g.size > 0 AND octet_length(v_data) <= g.max_bytes
              AND (c.forget_ms > {schema}.now_ms() OR c.forget_ms IS NULL)
              AND (c.run = g.run OR g.run = '') AND c.ended IS NULL
        RETURNING c.id, c.top, c.low, c.epoch, g.size, g.ttl_ms, g.notify, g.body,
                  {schema}.now_ms() AS now_ms
    ), item AS (
        INSERT INTO {schema}.items (channel, "offset", stored_ms, until_ms, body)
        SELECT l.id, l.top, l.now_ms, l.now_ms + l.ttl_ms, l.body FROM log AS l
    )
    SELECT l.*, NOT {schema}.all_poll() AS waits INTO v_log FROM log AS l;
    IF FOUND THEN
        IF v_log.waits THEN
            PERFORM pg_notify(
                v_log.notify,
                '#' || pg_current_xact_id() || '|p' || encode(v_name, 'hex') || ' '
                || v_log.top || ' ' || v_log.epoch || ' ' || v_log.now_ms || ' '
                || encode(v_log.body, 'base64')
            );
        END IF;
        IF v_log.top - v_log.size - v_log.low > v_log.size / 8 THEN
            UPDATE {schema}.channels AS c
            SET low = {schema}.trim_log(
                c.id, c.low, least(c.top - v_log.size, c.low + 1000), v_log.now_ms
            )
            WHERE c.id = v_log.id;
        END IF;
        "offset" := v_log.top;
        epoch := v_log.epoch;
        duplicate := false;
        skipped := false;
        RETURN;
    END IF;
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
    SELECT r.* INTO v_route FROM {schema}.routes AS r
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
    SELECT CASE WHEN s.trusted THEN '' END INTO v_run FROM {schema}.settings AS s;
    v_body := {schema}.encode_publication(v_data, tags, delta IS FALSE);
    SELECT b."offset", b.epoch, b.duplicate, b.refused
    INTO "offset", epoch, duplicate, v_refused
    FROM {schema}.publish_batch(
        NULL, false, v_run,
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
END
$$;

-- Publish JSON.
CREATE OR REPLACE FUNCTION {schema}.publish(
    channel text, data jsonb, tags jsonb DEFAULT NULL, idempotency_key text DEFAULT NULL,
    version bigint DEFAULT NULL, version_epoch text DEFAULT '', delta boolean DEFAULT true,
    OUT "offset" bigint, OUT epoch text, OUT duplicate boolean, OUT skipped boolean
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    SELECT p."offset", p.epoch, p.duplicate, p.skipped
    INTO "offset", epoch, duplicate, skipped
    FROM {schema}.publish($1, $2::text, $3, $4, $5, $6, $7) AS p;
END
$$;

CREATE OR REPLACE FUNCTION {schema}.publish(
    channel text, data json, tags jsonb DEFAULT NULL, idempotency_key text DEFAULT NULL,
    version bigint DEFAULT NULL, version_epoch text DEFAULT '', delta boolean DEFAULT true,
    OUT "offset" bigint, OUT epoch text, OUT duplicate boolean, OUT skipped boolean
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    SELECT p."offset", p.epoch, p.duplicate, p.skipped
    INTO "offset", epoch, duplicate, skipped
    FROM {schema}.publish($1, $2::text, $3, $4, $5, $6, $7) AS p;
END
$$;

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
    UPDATE {schema}.settings SET trusted = p_trusted WHERE trusted <> p_trusted;
    PERFORM {schema}.store_run_id();
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
END
$$;
