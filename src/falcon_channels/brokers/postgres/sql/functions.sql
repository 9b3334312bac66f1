-- The functions that the broker calls. {schema} is replaced by the name of the schema.

-- Return the current Unix time in milliseconds, also within a long transaction.
--
-- PERF: "extract" is slower than "date_part", because it returns numeric.
CREATE OR REPLACE FUNCTION {schema}.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint
$$;

-- Return the identity of this server and of these tables. It differs after a fail-over, and
-- after a backup or dump was restored. A dump that is restored on the same server makes new
-- tables, whose ids are new.
--
-- This function is not written in SQL, because PostgreSQL would then plan its query again
-- in each transaction.
CREATE OR REPLACE FUNCTION {schema}.run_id() RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT c.system_identifier FROM pg_control_system() AS c)::text
           || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
           || '-' || (SELECT s.tableoid FROM {schema}.settings AS s);
END
$$;

-- Store the identity of this server for "known_run_id".
CREATE OR REPLACE FUNCTION {schema}.store_run_id() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF (SELECT s.trusted FROM {schema}.settings AS s) THEN
        RETURN;
    END IF;
    UPDATE {schema}.settings
    SET routes_version = routes_version + (run IS DISTINCT FROM {schema}.run_id())::integer,
        run = {schema}.run_id(), started = pg_postmaster_start_time()
    WHERE started IS DISTINCT FROM pg_postmaster_start_time()
          OR right(run, 1 + length(tableoid::text)) IS DISTINCT FROM '-' || tableoid;
END
$$;

-- Return the identity of this server and of these tables. It cannot change while the server
-- runs and the tables exist, and "run_id" reads a file. The stored identity is therefore used
-- if this server was started at the stored time, and if it ends with the id of the table.
CREATE OR REPLACE FUNCTION {schema}.known_run_id() RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN coalesce(
        (SELECT s.run FROM {schema}.settings AS s
         WHERE s.started = pg_postmaster_start_time()
               AND right(s.run, 1 + length(s.tableoid::text)) = '-' || s.tableoid),
        {schema}.run_id()
    );
END
$$;

-- Return a random epoch.
CREATE OR REPLACE FUNCTION {schema}.new_epoch() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT left(replace(gen_random_uuid()::text, '-', ''), 16)
$$;

-- Lock the row of a log until the end of the transaction, and return the row. Create the
-- log if it does not exist, and start a new epoch if it has expired.
--
-- All publishers of a channel wait here for each other. Offsets are therefore assigned in
-- the order of the commits, which is also the order of the notifications.
CREATE OR REPLACE FUNCTION {schema}.open_log(
    p_name bytea, p_meta_ms bigint, p_run text
) RETURNS {schema}.channels
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {schema}.now_ms();
    v_forget_ms bigint := v_now + least(coalesce(p_meta_ms, 86400000), 86400000);
    v_log {schema}.channels;
BEGIN
    LOOP
        SELECT * INTO v_log FROM {schema}.channels WHERE name = p_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {schema}.channels (name, epoch, top, low, run, forget_ms)
        VALUES (p_name, {schema}.new_epoch(), 0, 0, p_run, v_forget_ms)
        ON CONFLICT (name) DO NOTHING;
    END LOOP;
    IF v_log.forget_ms <= v_now THEN
        DELETE FROM {schema}.items WHERE channel = v_log.id;
        UPDATE {schema}.channels
        SET epoch = {schema}.new_epoch(), top = 0, low = 0, run = p_run,
            forget_ms = v_forget_ms, ended = NULL, version = NULL, version_epoch = NULL
        WHERE id = v_log.id RETURNING * INTO v_log;
    ELSIF p_run <> '' AND v_log.run <> p_run THEN
        -- Another server has written this log. The newest publications may be missing
        -- here, and their offsets would be assigned again. So a new epoch starts.
        UPDATE {schema}.channels
        SET epoch = {schema}.new_epoch(), run = p_run
        WHERE id = v_log.id RETURNING * INTO v_log;
    END IF;
    RETURN v_log;
END
$$;

-- Return the name of the notifications.
CREATE OR REPLACE FUNCTION {schema}.notification_name() RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT s.notify FROM {schema}.settings AS s);
END
$$;

-- Return the start of a notification of this transaction: "#" and the id of the transaction.
-- If a message is not stored, a snapshot follows. A process that polls then announces the
-- message after all publications that the snapshot sees.
CREATE OR REPLACE FUNCTION {schema}.notification_head(p_stored boolean) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_snapshot text := pg_current_snapshot();
BEGIN
    RETURN '#' || pg_current_xact_id() || CASE
        WHEN p_stored THEN '' WHEN octet_length(v_snapshot) < 2000 THEN ' ' || v_snapshot
        ELSE ' 0:' || pg_current_xact_id() || ':' END;
END
$$;

-- Try to take the first of the two locks that "all_poll" describes. Return whether it was
-- free.
CREATE OR REPLACE FUNCTION {schema}.try_poll_lock() RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT pg_try_advisory_xact_lock(hashtext('{schema}.poll'), pg_backend_pid() & 31)
$$;

-- Return whether all processes poll, so that a stored publication needs no notification.
--
-- A process that waits for notifications shares all 32 locks. A publisher takes one of them
-- exclusively, and has a second choice if another publisher has the first one. If it gets
-- none, it notifies. Otherwise it holds the lock until its commit is visible. A process
-- that then gets the shared lock, and reads new publications after that, misses none.
CREATE OR REPLACE FUNCTION {schema}.all_poll() RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT {schema}.try_poll_lock() OR pg_try_advisory_xact_lock(
        hashtext('{schema}.poll'), hashint4(pg_backend_pid()) & 31
    )
$$;

-- Begin to wait for notifications: share those of the 32 locks that are free. Return the
-- numbers of the others.
CREATE OR REPLACE FUNCTION {schema}.share_locks(p_numbers integer[]) RETURNS integer[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN ARRAY(
        SELECT n FROM unnest(p_numbers) AS n
        WHERE NOT pg_try_advisory_lock_shared(hashtext('{schema}.poll'), n)
    );
END
$$;

-- Lock a channel for a publish until the end of the transaction, and return its log. Without
-- a log, only publishes with a key wait for each other, and the result is NULL.
CREATE OR REPLACE FUNCTION {schema}.lock_channel(
    p_name bytea, p_size bigint, p_meta_ms bigint, p_run text
) RETURNS {schema}.channels
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_size > 0 THEN
        RETURN {schema}.open_log(p_name, p_meta_ms, p_run);
    END IF;
    PERFORM pg_advisory_xact_lock(
        hashtext('{schema}.keys'), hashtext(encode(p_name, 'hex'))
    );
    RETURN NULL;
END
$$;

-- Lock a channel like "lock_channel", and return true. If another transaction has locked the
-- channel for longer than the "lock_timeout", return false.
CREATE OR REPLACE FUNCTION {schema}.try_lock_channel(
    p_name bytea, p_size bigint, p_meta_ms bigint, p_run text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM {schema}.lock_channel(p_name, p_size, p_meta_ms, p_run);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- Remove the publications of a locked log whose offsets are above "low" and up to "p_last".
-- Return the new "low".
--
-- Publications of the last 10 s stay, because other processes may still read those that
-- were too long for a notification.
CREATE OR REPLACE FUNCTION {schema}.trim_log(
    p_id bigint, p_low bigint, p_last bigint, p_now bigint
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_stored_ms bigint;
    v_last bigint;
BEGIN
    -- In a busy log, the oldest publication is often young enough to stay.
    SELECT i.stored_ms INTO v_stored_ms FROM {schema}.items AS i
    WHERE i.channel = p_id AND i."offset" = p_low + 1;
    IF v_stored_ms >= p_now - 10000 THEN
        RETURN p_low;
    END IF;
    SELECT i."offset" - 1 INTO v_last FROM {schema}.items AS i
    WHERE i.channel = p_id AND i."offset" > p_low AND i."offset" <= p_last
          AND i.stored_ms >= p_now - 10000
    ORDER BY i."offset" LIMIT 1;
    v_last := coalesce(v_last, p_last);
    IF v_last > p_low THEN
        DELETE FROM {schema}.items AS i
        WHERE i.channel = p_id AND i."offset" > p_low AND i."offset" <= v_last;
    END IF;
    RETURN v_last;
END
$$;

-- Append publications to several channels, and announce them when the transaction commits.
-- A notification begins with "notification_head". Return a row for each publication. "refused" is 'ended' if the channel has ended, and
-- 'skipped' if the channel already has the version or a newer one.
--
-- For each channel, "p_numbers" has these numbers:
--
-- * the length of its name in bytes
-- * the number of its publications
-- * 1 if one of these is special (has a key, a version or an end), otherwise 0
-- * the size of the log; 0 for no log, and -1 if the publications skip the log
-- * how long a publication, the log, and a key are stored, in milliseconds
-- * for each publication: the length of its body. If the third number is 1, then also the
--   length of the key, the version, the length of the version epoch, and the length of the
--   error with which the channel ends.
--
-- -1 stands for no limit, no key, no version and no end. "p_bytes" has all names, bodies,
-- keys, epochs and errors in the same order.
--
-- The channels are sorted by name, so that two calls cannot deadlock. A call fails if a
-- channel is locked for longer than "p_lock_ms"; NULL stands for the "lock_timeout" of the
-- caller. With "p_skip", the channel is skipped instead, and "refused" is 'locked'.
--
-- PERF: without "random_page_cost", PostgreSQL reads all rows of a short table of channels,
-- also the old versions of the rows.
CREATE OR REPLACE FUNCTION {schema}.publish_batch(
    p_lock_ms integer, p_skip boolean, p_run text, p_numbers bigint[], p_bytes bytea
) RETURNS TABLE (duplicate boolean, "offset" bigint, epoch text, refused text)
LANGUAGE plpgsql VOLATILE SET random_page_cost = 0 AS $$
#variable_conflict use_column
DECLARE
    v_timeout text := current_setting('lock_timeout');
    v_notify text := {schema}.notification_name();
    v_run text := coalesce(p_run, {schema}.known_run_id());
    v_end integer := array_length(p_numbers, 1);
    v_next integer := 1;
    v_byte integer := 1;
    v_now bigint := {schema}.now_ms();
    v_name bytea;
    v_count integer;
    v_special boolean;
    v_size bigint;
    v_ttl_ms bigint;
    v_meta_ms bigint;
    v_key_ms bigint;
    v_log {schema}.channels;
    v_old bigint;
    v_top bigint;
    v_low bigint;
    v_locked boolean;
    v_done boolean;
    v_offset bigint;
    v_epoch text;
    v_body bytea;
    v_key bytea;
    v_version bigint;
    v_version_epoch bytea;
    v_error bytea;
    v_kind text;
    v_text text;
    v_entry text;
    v_polled boolean;
    v_head text := {schema}.notification_head(true);
    v_payload text := v_head;
    v_ordered boolean := false;
    v_ids bigint[] := '{}';
    v_offsets bigint[] := '{}';
    v_stored bigint[] := '{}';
    v_untils bigint[] := '{}';
    v_bodies bytea[] := '{}';
BEGIN
    IF p_lock_ms IS NOT NULL THEN
        PERFORM set_config('lock_timeout', p_lock_ms::text, true);
    END IF;
    WHILE v_next < v_end LOOP
        v_name := substring(p_bytes, v_byte, p_numbers[v_next]::integer);
        v_byte := v_byte + p_numbers[v_next];
        v_count := p_numbers[v_next + 1];
        v_special := p_numbers[v_next + 2] > 0;
        v_size := p_numbers[v_next + 3];
        v_ttl_ms := nullif(p_numbers[v_next + 4], -1);
        v_meta_ms := nullif(p_numbers[v_next + 5], -1);
        v_key_ms := p_numbers[v_next + 6];
        v_next := v_next + 7;
        v_log := NULL;
        v_locked := p_skip AND (v_size > 0 OR v_special)
            AND NOT {schema}.try_lock_channel(v_name, v_size, v_meta_ms, v_run);
        IF v_size > 0 AND NOT v_locked THEN
            IF NOT v_special THEN
                -- Most publishes: the log exists, and all publications are stored.
                UPDATE {schema}.channels AS c
                SET top = c.top + v_count, forget_ms = v_now + v_meta_ms
                WHERE c.name = v_name AND (c.forget_ms > v_now OR c.forget_ms IS NULL)
                      AND (c.run = v_run OR v_run = '') AND c.ended IS NULL
                RETURNING * INTO v_log;
                v_log.top := v_log.top - v_count;
            END IF;
            v_done := v_log.id IS NOT NULL;
            IF NOT v_done THEN
                v_log := {schema}.open_log(v_name, v_meta_ms, v_run);
            END IF;
        ELSIF v_special AND NOT v_locked THEN
            PERFORM {schema}.lock_channel(v_name, v_size, v_meta_ms, v_run);
        END IF;
        IF v_size < 0 AND NOT v_locked THEN
            SELECT c.ended INTO v_log.ended FROM {schema}.channels AS c
            WHERE c.name = v_name AND (c.forget_ms > v_now OR c.forget_ms IS NULL);
        END IF;
        v_old := coalesce(v_log.top, 0);
        v_top := v_old;
        v_epoch := coalesce(v_log.epoch, '');
        v_kind := CASE WHEN v_size > 0 THEN 'p' ELSE 'l' END || encode(v_name, 'hex') || ' ';
        v_now := {schema}.now_ms();
        FOR i IN 1 .. v_count LOOP
            v_body := substring(p_bytes, v_byte, p_numbers[v_next]::integer);
            v_byte := v_byte + p_numbers[v_next];
            v_next := v_next + 1;
            v_offset := CASE WHEN v_size > 0 THEN v_top + 1 ELSE 0 END;
            duplicate := false;
            "offset" := v_offset;
            epoch := v_epoch;
            refused := CASE
                WHEN v_locked THEN 'locked' WHEN v_log.ended IS NOT NULL THEN 'ended'
            END;
            IF v_special THEN
                v_key := CASE WHEN p_numbers[v_next] >= 0
                    THEN substring(p_bytes, v_byte, p_numbers[v_next]::integer) END;
                v_byte := v_byte + greatest(p_numbers[v_next], 0);
                v_version := nullif(p_numbers[v_next + 1], -1);
                v_version_epoch := substring(
                    p_bytes, v_byte, p_numbers[v_next + 2]::integer
                );
                v_byte := v_byte + p_numbers[v_next + 2];
                v_error := CASE WHEN p_numbers[v_next + 3] >= 0
                    THEN substring(p_bytes, v_byte, p_numbers[v_next + 3]::integer) END;
                v_byte := v_byte + greatest(p_numbers[v_next + 3], 0);
                v_next := v_next + 4;
                IF refused IS NULL AND v_version <= v_log.version
                   AND v_version_epoch IN ('', v_log.version_epoch) THEN
                    refused := 'skipped';
                END IF;
                IF v_key IS NOT NULL AND NOT v_locked THEN
                    IF refused IS NULL THEN
                        INSERT INTO {schema}.keys AS k
                        VALUES (v_name, v_key, v_offset, v_epoch, v_now + v_key_ms)
                        ON CONFLICT (channel, key) DO UPDATE
                        SET "offset" = excluded."offset", epoch = excluded.epoch,
                            until_ms = excluded.until_ms
                        WHERE k.until_ms <= v_now;
                        duplicate := NOT FOUND;
                    ELSE
                        duplicate := EXISTS (
                            SELECT FROM {schema}.keys AS k WHERE k.channel = v_name
                            AND k.key = v_key AND k.until_ms > v_now
                        );
                    END IF;
                END IF;
            END IF;
            IF duplicate THEN
                refused := NULL;
                SELECT k."offset", k.epoch INTO "offset", epoch FROM {schema}.keys AS k
                WHERE k.channel = v_name AND k.key = v_key;
            ELSIF refused IS NOT NULL THEN
                "offset" := v_top;
            ELSE
                IF v_size > 0 THEN
                    v_top := v_offset;
                    v_ids := v_ids || v_log.id;
                    v_offsets := v_offsets || v_offset;
                    v_stored := v_stored || v_now;
                    v_untils := v_untils || (v_now + v_ttl_ms);
                    v_bodies := v_bodies || v_body;
                    IF v_special THEN
                        v_log.ended := v_error;
                        v_log.version := coalesce(v_version, v_log.version);
                        v_log.version_epoch := CASE WHEN v_version IS NULL
                            THEN v_log.version_epoch ELSE v_version_epoch END;
                    END IF;
                    v_polled := coalesce(v_polled, {schema}.all_poll());
                ELSE
                    v_offset := nextval('{schema}.message_ids');
                    IF NOT v_ordered THEN
                        IF v_payload <> v_head THEN
                            PERFORM pg_notify(v_notify, v_payload);
                        END IF;
                        v_ordered := true;
                        v_head := {schema}.notification_head(false);
                        v_payload := v_head;
                    END IF;
                END IF;
                IF v_size <= 0 OR NOT v_polled THEN
                    v_entry :=
                        v_kind || v_offset || ' ' || v_epoch || ' ' || v_now || ' ';
                    v_text := encode(v_body, 'base64');
                    IF octet_length(v_head) + octet_length(v_entry)
                       + octet_length(v_text) < 7950 THEN
                        v_entry := v_entry || v_text;
                    ELSE
                        -- The receivers read the body from a table.
                        v_entry := v_entry || '@';
                        IF v_size <= 0 THEN
                            INSERT INTO {schema}.messages
                            VALUES (v_offset, false, v_body, v_now + 60000);
                        END IF;
                    END IF;
                    IF octet_length(v_payload) + octet_length(v_entry) >= 7950 THEN
                        PERFORM pg_notify(v_notify, v_payload);
                        v_payload := v_head;
                    END IF;
                    v_payload := v_payload || '|' || v_entry;
                END IF;
            END IF;
            RETURN NEXT;
        END LOOP;
        IF v_top > v_old THEN
            v_low := v_log.low;
            IF v_top - v_size - v_low > v_size / 8 THEN
                v_low := {schema}.trim_log(
                    v_log.id, v_low, least(v_top - v_size, v_old, v_low + 1000), v_now
                );
            END IF;
            IF NOT v_done OR v_low > v_log.low THEN
                UPDATE {schema}.channels AS c
                SET top = v_top, low = v_low, forget_ms = v_now + v_meta_ms,
                    ended = v_log.ended, version = v_log.version,
                    version_epoch = v_log.version_epoch
                WHERE c.id = v_log.id;
            END IF;
        END IF;
    END LOOP;
    INSERT INTO {schema}.items (channel, "offset", stored_ms, until_ms, body)
    SELECT * FROM unnest(v_ids, v_offsets, v_stored, v_untils, v_bodies);
    IF v_payload <> v_head THEN
        PERFORM pg_notify(v_notify, v_payload);
    END IF;
    IF p_lock_ms IS NOT NULL THEN
        PERFORM set_config('lock_timeout', v_timeout, true);
    END IF;
END
$$;

-- Send a message that belongs to no log: a signal ('s') or a control message ('c'). If it is
-- too long for a notification, "@" is sent instead, and the receivers read it from a table.
-- Control messages are stored for an hour, for processes whose link is lost.
CREATE OR REPLACE FUNCTION {schema}.send(p_kind text, p_name bytea, p_body bytea)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_notify text := {schema}.notification_name();
    v_now bigint;
    v_id bigint;
    v_head text;
    v_text text := encode(p_body, 'base64');
    v_short boolean;
BEGIN
    IF p_kind = 'c' THEN
        -- Only one transaction at a time, so that the ids are in the order of the commits.
        PERFORM pg_advisory_xact_lock(hashtext('{schema}.control'), -1);
    END IF;
    v_id := nextval('{schema}.message_ids');
    v_now := {schema}.now_ms();
    v_head := {schema}.notification_head(false) || '|' || p_kind || encode(p_name, 'hex')
              || ' ' || v_id || '  ' || v_now || ' ';
    v_short := octet_length(v_head) + octet_length(v_text) < 7950;
    PERFORM pg_notify(v_notify, v_head || CASE WHEN v_short THEN v_text ELSE '@' END);
    IF p_kind = 'c' THEN
        INSERT INTO {schema}.messages VALUES (v_id, true, p_body, v_now + 3600000);
    ELSIF NOT v_short THEN
        INSERT INTO {schema}.messages VALUES (v_id, false, p_body, v_now + 60000);
    END IF;
END
$$;

-- Read a log. The first row is the position (offset and epoch), and the error with which
-- the channel has ended; the other rows are the publications.
CREATE OR REPLACE FUNCTION {schema}.history(
    p_run text, p_name bytea, p_size bigint, p_ttl_ms bigint, p_meta_ms bigint,
    p_since bigint, p_limit bigint, p_reverse boolean
) RETURNS TABLE ("offset" bigint, epoch text, stored_ms bigint, body bytea)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_log {schema}.channels;
    v_now bigint := {schema}.now_ms();
    v_run text := coalesce(p_run, {schema}.known_run_id());
    v_above bigint;
    v_below bigint;
    v_after bigint := coalesce(v_now - p_ttl_ms, -1);
BEGIN
    SELECT * INTO v_log FROM {schema}.channels AS c WHERE c.name = p_name;
    IF NOT FOUND OR v_log.forget_ms <= v_now OR (v_run <> '' AND v_log.run <> v_run) THEN
        -- The transaction need not wait for the disk, because an empty or new log loses
        -- nothing in a crash.
        PERFORM set_config('synchronous_commit', 'off', true);
        v_log := {schema}.open_log(p_name, p_meta_ms, v_run);
    ELSIF p_limit = 0 AND v_log.forget_ms < v_now + p_meta_ms / 2 THEN
        -- The process only reads the position, because it has subscribers. The removal of
        -- the log is therefore postponed.
        PERFORM set_config('synchronous_commit', 'off', true);
        UPDATE {schema}.channels AS c SET forget_ms = v_now + p_meta_ms
        WHERE c.id = (
            SELECT s.id FROM {schema}.channels AS s
            WHERE s.id = v_log.id FOR UPDATE SKIP LOCKED
        );
    END IF;
    RETURN QUERY SELECT v_log.top, v_log.epoch, NULL::bigint, v_log.ended;
    v_above := greatest(v_log.low, v_log.top - p_size);
    v_below := v_log.top + 1;
    IF p_reverse THEN
        v_below := least(v_below, p_since);
        RETURN QUERY SELECT i."offset", NULL::text, i.stored_ms, i.body
        FROM {schema}.items AS i
        WHERE i.channel = v_log.id AND i."offset" > v_above AND i."offset" < v_below
              AND i.stored_ms > v_after
        ORDER BY i."offset" DESC LIMIT p_limit;
    ELSE
        v_above := greatest(v_above, p_since);
        RETURN QUERY SELECT i."offset", NULL::text, i.stored_ms, i.body
        FROM {schema}.items AS i
        WHERE i.channel = v_log.id AND i."offset" > v_above AND i."offset" < v_below
              AND i.stored_ms > v_after
        ORDER BY i."offset" LIMIT p_limit;
    END IF;
END
$$;

-- Remove all publications of a log, and the end of the channel. Those of the last 10 s
-- leave the table later, because processes that poll may still read them.
CREATE OR REPLACE FUNCTION {schema}.remove_history(p_name bytea) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_log {schema}.channels;
    v_now bigint;
BEGIN
    UPDATE {schema}.channels SET low = top, ended = NULL
    WHERE name = p_name RETURNING * INTO v_log;
    v_now := {schema}.now_ms();
    DELETE FROM {schema}.items
    WHERE channel = v_log.id AND "offset" <= v_log.low AND stored_ms < v_now - 10000;
    UPDATE {schema}.items SET until_ms = v_now
    WHERE channel = v_log.id AND "offset" <= v_log.low;
END
$$;

-- Lock the presence of some channels until the end of the transaction. The channels are
-- divided into 16 parts, and each part is changed by one transaction at a time. Otherwise
-- two transactions could both find that an entry is the first or last of its user.
--
-- The transaction need not wait for the disk, because an entry that a crash has undone is
-- refreshed or expires.
CREATE OR REPLACE FUNCTION {schema}.lock_presence(p_names bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_part integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR v_part IN
        SELECT DISTINCT abs(hashtext(encode(name, 'hex')) % 16) AS part
        FROM unnest(p_names) AS name ORDER BY part
    LOOP
        PERFORM pg_advisory_xact_lock(hashtext('{schema}.presence'), v_part);
    END LOOP;
END
$$;

-- Add or refresh presence entries. Return for each whether it is the first of its user, and
-- whether it is new.
CREATE OR REPLACE FUNCTION {schema}.add_entries(
    p_ttl_ms bigint, p_names bytea[], p_clients bytea[], p_users bytea[],
    p_infos bytea[]
) RETURNS TABLE (first boolean, new boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_until bigint;
    v_first boolean;
BEGIN
    PERFORM {schema}.lock_presence(p_names);
    v_until := {schema}.now_ms() + p_ttl_ms;
    FOR i IN 1 .. array_length(p_names, 1) LOOP
        v_first := NOT EXISTS (
            SELECT 1 FROM {schema}.presence
            WHERE channel = p_names[i] AND "user" = p_users[i]
        );
        UPDATE {schema}.presence
        SET "user" = p_users[i], info = p_infos[i], until_ms = v_until
        WHERE channel = p_names[i] AND client = p_clients[i];
        IF FOUND THEN
            RETURN QUERY SELECT v_first, false;
        ELSE
            INSERT INTO {schema}.presence
            VALUES (p_names[i], p_clients[i], p_users[i], p_infos[i], v_until);
            RETURN QUERY SELECT v_first, true;
        END IF;
    END LOOP;
END
$$;

-- Remove a presence entry. Return its info, and whether it was the last of its user; no row
-- if there was no entry.
CREATE OR REPLACE FUNCTION {schema}.remove_presence(p_name bytea, p_client bytea)
RETURNS TABLE (info bytea, last boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_user bytea;
    v_info bytea;
BEGIN
    PERFORM {schema}.lock_presence(ARRAY[p_name]);
    DELETE FROM {schema}.presence AS p WHERE p.channel = p_name AND p.client = p_client
    RETURNING p."user", p.info INTO v_user, v_info;
    IF FOUND THEN
        RETURN QUERY SELECT v_info, NOT EXISTS (
            SELECT 1 FROM {schema}.presence
            WHERE channel = p_name AND "user" = v_user
        );
    END IF;
END
$$;

-- Remove expired presence entries, and return them.
CREATE OR REPLACE FUNCTION {schema}.expire_presence(p_limit bigint)
RETURNS TABLE (channel bytea, info bytea, last boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := {schema}.now_ms();
    v_names bytea[];
    v_expired record;
BEGIN
    SELECT array_agg(DISTINCT e.channel) INTO v_names FROM (
        SELECT p.channel FROM {schema}.presence AS p
        WHERE p.until_ms <= v_now ORDER BY p.until_ms LIMIT p_limit
    ) AS e;
    IF v_names IS NULL THEN
        RETURN;
    END IF;
    PERFORM {schema}.lock_presence(v_names);
    FOR v_expired IN
        SELECT p.channel, p.client, p."user", p.info FROM {schema}.presence AS p
        WHERE p.until_ms <= v_now AND p.channel = ANY (v_names)
        ORDER BY p.until_ms LIMIT p_limit
    LOOP
        DELETE FROM {schema}.presence AS p
        WHERE p.channel = v_expired.channel AND p.client = v_expired.client;
        RETURN QUERY SELECT v_expired.channel, v_expired.info, NOT EXISTS (
            SELECT 1 FROM {schema}.presence AS p
            WHERE p.channel = v_expired.channel AND p."user" = v_expired."user"
        );
    END LOOP;
END
$$;

-- Remove a limited number of expired rows; only one process at a time. Return whether more
-- rows have expired. Publications stay for 10 s longer, because processes that poll may
-- still read them.
--
-- Each statement has a limit. Without it, a large number of rows could take longer than the
-- "statement_timeout". No expired row would then ever be removed.
CREATE OR REPLACE FUNCTION {schema}.sweep() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {schema}.now_ms();
    v_count bigint;
    v_max bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('{schema}.sweep'), 0) THEN
        RETURN false;
    END IF;
    DELETE FROM {schema}.items WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.items WHERE until_ms <= v_now - 10000 LIMIT 5000
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    DELETE FROM {schema}.keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.keys WHERE until_ms <= v_now LIMIT 5000
    )) AND until_ms <= v_now;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    DELETE FROM {schema}.messages WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.messages WHERE until_ms <= v_now LIMIT 5000
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    DELETE FROM {schema}.revocations WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.revocations WHERE until_ms <= v_now LIMIT 5000
    )) AND until_ms <= v_now;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    -- A route that is being renewed is skipped.
    DELETE FROM {schema}.routes WHERE template IN (
        SELECT template FROM {schema}.routes WHERE until_ms <= v_now
        FOR UPDATE SKIP LOCKED
    );
    -- The publications of logs that expired a minute ago or earlier, and then the logs that
    -- have no more publications. A log locked by a publish is skipped.
    DELETE FROM {schema}.items WHERE ctid = ANY (ARRAY(
        SELECT i.ctid FROM (
            SELECT id FROM {schema}.channels WHERE forget_ms <= v_now - 60000
            LIMIT 500 FOR UPDATE SKIP LOCKED
        ) AS c JOIN {schema}.items AS i ON i.channel = c.id LIMIT 5000
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    WITH expired AS MATERIALIZED (
        SELECT id FROM {schema}.channels WHERE forget_ms <= v_now - 60000
        LIMIT 500 FOR UPDATE SKIP LOCKED
    )
    DELETE FROM {schema}.channels WHERE id IN (
        SELECT e.id FROM expired AS e
        WHERE NOT EXISTS (SELECT FROM {schema}.items AS i WHERE i.channel = e.id)
    );
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_max >= 5000 OR v_count >= 500;
END
$$;
