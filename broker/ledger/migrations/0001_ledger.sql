-- The ledger. Money in nano-USD, instants and durations in ms, ids UUIDv7.
-- Tables that hold a row a job are partitioned by its id, so by its day; retention is dropping a day.

create table infermq.jobs (
    id              uuid    not null primary key,
    tenant          text    not null,
    key             text    not null,
    lane            text    not null,
    model           text    not null,
    endpoint        text    not null,
    -- `open` while the job stands in waiting or running: both are narrow, and this row is written twice in its life
    state           text    not null check (state in ('open', 'succeeded', 'failed', 'expired', 'cancelled', 'dead')),
    max_attempts    int     not null,
    attempts        int     not null default 0,
    -- −100 to 100, higher first, among the jobs of its flow
    priority        smallint not null default 0,
    batch           uuid,
    line            int,
    custom_id       text,
    admitted_ms     bigint  not null,
    deadline_ms     bigint  not null,
    settled_ms      bigint,
    input_tokens    bigint  not null default 0,
    output_tokens   bigint  not null default 0,
    cached_tokens   bigint  not null default 0,
    cost_nano_usd   bigint  not null default 0,
    failure         jsonb,
    metadata        jsonb,
    traceparent     text,
    body_hash       bytea   not null
) partition by range (id);

create table infermq.bodies (
    job     uuid    not null primary key,
    body    bytea   not null
) partition by range (job);

create table infermq.executions (
    job             uuid    not null,
    -- made by the worker when the execution started: NATS's count of deliveries may start again
    id              uuid    not null,
    attempt         int     not null,
    delivery        int     not null,
    deployment      text    not null,
    worker          text    not null,
    outcome         text    not null,
    failure         text,
    waste           boolean not null,
    -- whether its answer held what is no JSON, which was replaced
    mended          boolean not null default false,
    input_tokens    bigint  not null,
    output_tokens   bigint  not null,
    cached_tokens   bigint  not null,
    cost_nano_usd   bigint  not null,
    cost_source     text    not null,
    started_ms      bigint  not null,
    queue_ms        bigint  not null,
    ttft_ms         bigint,
    run_ms          bigint  not null,
    primary key (job, id)
) partition by range (job);

-- One row a job that ended. The results of a batch are numbered from 1 without a gap, in the order of commits: a number is
-- given while the batch's row is locked, so whoever has read up to one has missed none before it.
create table infermq.results (
    job     uuid    not null primary key,
    batch   uuid,
    ordinal int,
    body    bytea
) partition by range (job);
create index results_feed on infermq.results (batch, ordinal) where batch is not null;

-- The backlog in the order of dispatch, of jobs that may start now: the primary key is the flow, then the place in it.
create table infermq.waiting (
    model           text    not null,
    lane            text    not null,
    tenant          text    not null,
    -- 0 minus the priority: the least is first
    rank            smallint not null default 0,
    deadline_ms     bigint  not null,
    job             uuid    not null,
    attempt         int     not null default 0,
    uncounted       int     not null default 0,
    -- deployments that failed it, and leave it to others; null: none
    tried           text[],
    batch           uuid,
    -- what it counts for in the order of dispatch: an estimate; 1 for every job so far
    tokens          int     not null default 1,
    primary key (model, lane, tenant, rank, deadline_ms, job)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
create index waiting_of_batch on infermq.waiting (batch) where batch is not null;

-- Jobs that wait for their time, in the order in which it comes: then they are moved into the backlog, or when their
-- deadline passes, which is looked for there. A suspected job, whose worker died, waits here for a run apart: its own time
-- never comes.
create table infermq.delayed (
    job             uuid    not null primary key,
    not_before_ms   bigint  not null,
    model           text    not null,
    lane            text    not null,
    tenant          text    not null,
    rank            smallint not null,
    deadline_ms     bigint  not null,
    attempt         int     not null,
    uncounted       int     not null,
    tried           text[],
    batch           uuid,
    tokens          int     not null,
    -- a Suspicion (schemas/ruling.py), while it is suspected
    suspicion       jsonb,
    -- it waits here only because its batch is paused, and goes back into the backlog when that is over
    is_parked       boolean not null default false
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
create index delayed_due on infermq.delayed (least(not_before_ms, deadline_ms));
create index delayed_of_batch on infermq.delayed (batch) where batch is not null;
create index delayed_suspects on infermq.delayed (job) where suspicion is not null;
create index delayed_parked on infermq.delayed (batch, job) where is_parked;

create table infermq.running (
    job             uuid    not null primary key,
    attempt         int     not null,
    uncounted       int     not null,
    deployment      text    not null,
    dispatched_ms   bigint  not null,
    deadline_ms     bigint  not null,
    model           text    not null,
    lane            text    not null,
    tenant          text    not null,
    tried           text[],
    tokens          int     not null,
    suspicion       jsonb,
    -- the worker that runs it apart; null: it went through RUN
    ward            text,
    -- since when it is to be cancelled: it is never put back or tried again
    cancel_ms       bigint
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
create index running_apart on infermq.running (job) where ward is not null;
create index running_cancelled on infermq.running (job) where cancel_ms is not null;

-- Jobs that were cancelled before they were in the ledger: they are cancelled soon after they come.
create table infermq.early_cancels (
    job             uuid    not null,
    tenant          text    not null,
    made_ms         bigint  not null,
    primary key (tenant, job)
);

create table infermq.batches (
    id              uuid    not null primary key,
    tenant          text    not null,
    lane            text    not null,
    created_ms      bigint  not null,
    deadline_ms     bigint,
    -- of its jobs that have none of their own
    priority        smallint not null default 0,
    -- the lane that its jobs are sent with, if it was changed meanwhile; and what was changed (schemas/changes.py), which
    -- holds for jobs that come later
    submit_lane     text,
    change          jsonb,
    sealed_ms       bigint,
    completed_ms    bigint,
    -- when somebody cancelled it: nothing of it starts any more
    cancel_ms       bigint,
    jobs            int,
    admitted        int     not null default 0,
    succeeded       int     not null default 0,
    failed          int     not null default 0,
    expired         int     not null default 0,
    cancelled       int     not null default 0,
    dead            int     not null default 0,
    -- jobs that came when it was full: each has failed, outside of the batch
    refused         int     not null default 0,
    input_tokens    bigint  not null default 0,
    output_tokens   bigint  not null default 0,
    cached_tokens   bigint  not null default 0,
    cost_nano_usd   bigint  not null default 0,
    metadata        jsonb   not null,
    -- the batch whose failures it retries, and the first batch of that chain, with whose results its own are merged
    retry_of        uuid,
    root            uuid,
    -- how many of them it took out of each state: they count where they ended in the retry
    took            jsonb,
    is_replay       boolean not null default false,
    -- whether its jobs are lines of a file
    of_file         boolean not null default false,
    -- the endpoint that is told of its end, whatever that listens to
    webhook         uuid
) with (fillfactor = 50);
create index batches_of_tenant on infermq.batches (tenant, id);
create index batches_cancelling on infermq.batches (id) where cancel_ms is not null and completed_ms is null;
create index batches_of_root on infermq.batches (root, id) where root is not null;

-- Which job a new job repeats. Retries and replays make new jobs, and leave those that they repeat as they are.
create table infermq.replays (
    job     uuid    not null primary key,
    source  uuid    not null,
    -- the first job of a line that was retried, with whose results those of the retries are merged; null: a replay
    root    uuid
);
create index replays_of_root on infermq.replays (root) where root is not null;

-- Bodies that somebody sent with an instruction, to be taken instead of those of the jobs of these custom ids until it ends.
create table infermq.instruction_bodies (
    instruction     uuid    not null,
    custom_id       text    not null,
    body            bytea   not null,
    -- null: as it was
    model           text,
    endpoint        text,
    primary key (instruction, custom_id)
);

-- The job that a producer's own key was first used for.
create table infermq.idempotency (
    tenant      text    not null,
    key         text    not null,
    job         uuid    not null,
    primary key (tenant, key)
);
create index idempotency_by_age on infermq.idempotency (job);

-- The ids under which a job was submitted again by its key. They name it when somebody asks for it.
create table infermq.repeated (
    id          uuid    not null primary key,
    tenant      text    not null,
    job         uuid    not null
);

-- One row a job that ended otherwise than succeeded, written with its end.
create table infermq.failures (
    job         uuid    not null primary key,
    tenant      text    not null,
    model       text    not null,
    batch       uuid,
    state       text    not null check (state in ('failed', 'expired', 'cancelled', 'dead')),
    -- what infermq.failure_kind says
    kind        text    not null,
    ended_ms    bigint  not null,
    -- when somebody dropped it from the dead letters; null: nobody has
    dropped_ms  bigint
);
create index failures_of_tenant on infermq.failures (tenant, job);
create index failures_of_batch on infermq.failures (batch, job) where batch is not null;
create index failures_dead on infermq.failures (job) where state = 'dead' and dropped_ms is null;
create index failures_ended on infermq.failures (ended_ms);

-- The kind of a job's failure; of a refusal its own code, which is more precise; the state of a job that ended without one.
create function infermq.failure_kind(state text, failure jsonb) returns text immutable language sql as $$
    select coalesce(case when failure->>'type' = 'refused' then failure->>'code' else failure->>'type' end, state)
$$;

-- What each deployment cost on a day (UTC): daily caps are held by it.
create table infermq.spend (
    day             date    not null,
    deployment      text    not null,
    executions      bigint  not null,
    cost_nano_usd   bigint  not null,
    primary key (day, deployment)
) with (fillfactor = 50);

create table infermq.dead_letters (
    -- made of the stream, the sequence and the time: the same whenever the message is delivered
    id          uuid    not null primary key,
    stream      text    not null,
    sequence    bigint  not null,
    received_ms bigint  not null,
    subject     text    not null,
    -- a DeadCause (schemas/dead.py)
    cause       text    not null,
    reason      text    not null,
    -- of what was submitted; null: nobody can tell
    tenant      text,
    model       text,
    headers     jsonb   not null,
    payload     bytea   not null,
    -- when it was published again; null: it was not
    requeued_ms bigint
);
create index dead_letters_of_tenant on infermq.dead_letters (tenant, id);
create index dead_letters_received on infermq.dead_letters (received_ms);

-- Orders over many jobs, each carried out in pages (see broker/ledger/instructions.py). A page that is due runs in the order
-- of `next_ms`, which each page moves on, so that they take turns.
create table infermq.instructions (
    id          uuid    not null primary key,
    kind        text    not null,
    tenant      text    not null,
    key         text    not null,
    made_ms     bigint  not null,
    -- what was asked
    what        jsonb   not null,
    -- where the next page begins
    cursor      text,
    counts      jsonb   not null default '{}',
    next_ms     bigint  not null,
    ended_ms    bigint,
    failure     text
) with (fillfactor = 50);
create index instructions_open on infermq.instructions (next_ms, id) where ended_ms is null;
create index instructions_of_tenant on infermq.instructions (tenant, id);

create table infermq.catalog (
    number      int     not null primary key,
    applied_ms  bigint  not null,
    applied_by  text    not null,
    toml        text    not null
);

-- The key with which brokers seal what they hand out, so that reports on anything else are refused. One row.
create table infermq.seal_key (
    is_only boolean not null primary key default true check (is_only),
    key     bytea   not null check (length(key) = 32)
);

-- Who dispatches each shard, by a lease.
create table infermq.leader (
    shard   int         not null primary key,
    holder  text        not null,
    term    bigint      not null,
    until   timestamptz not null
) with (fillfactor = 50);

-- What is paused: nothing of it starts until it is resumed. The name is that of a model, lane, tenant or deployment, or the
-- id of a batch.
create table infermq.pauses (
    kind        text    not null check (kind in ('batch', 'model', 'lane', 'tenant', 'deployment')),
    name        text    not null,
    paused_ms   bigint  not null,
    -- who paused it
    tenant      text    not null,
    key         text    not null,
    reason      text,
    primary key (kind, name)
);

-- Grows with each change of what may start. Nothing is dispatched by a leader that has not read the newest.
create table infermq.control_version (
    is_only boolean not null primary key default true check (is_only),
    number  bigint  not null
) with (fillfactor = 50);
insert into infermq.control_version (number) values (1);

-- Who pays and is isolated from others.
create table infermq.tenants (
    name        text    not null primary key,
    created_ms  bigint  not null,
    -- tenant/key of whoever made it
    made_by     text    not null,
    label       text,
    -- since when its keys are not let in; null: they are
    disabled_ms bigint
);
-- what callers are as long as there are no keys
insert into infermq.tenants (name, created_ms, made_by)
values ('default', (extract(epoch from clock_timestamp()) * 1000)::bigint, 'infermq');

-- API keys, which open every door. The secret is nowhere: `hash` is its SHA-256. Null lists: all.
create table infermq.api_keys (
    -- an id is no other key's of any tenant, since inboxes are named by it
    id          text    not null primary key,
    tenant      text    not null references infermq.tenants (name),
    role        text    not null check (role in ('producer', 'tenant-admin', 'worker', 'deployer', 'operator')),
    hash        bytea   not null check (length(hash) = 32),
    models      text[],
    endpoints   text[],
    lanes       text[],
    deployments text[],
    created_ms  bigint  not null,
    made_by     text    not null,
    expires_ms  bigint,
    revoked_ms  bigint,
    label       text,
    -- the key that it was made for, by a rotation
    replaces    text
);
create index api_keys_of_tenant on infermq.api_keys (tenant, id);
create index api_keys_of_operators on infermq.api_keys (id) where role = 'operator' and revoked_ms is null;

-- When keys were used last. Apart from them, since it changes with every use and nothing depends on it.
create table infermq.key_uses (
    id          text    not null primary key,
    used_ms     bigint  not null
) with (fillfactor = 50);

-- Grows with each change of tenants or keys. Changes wait for each other here.
create table infermq.key_version (
    is_only boolean not null primary key default true check (is_only),
    number  bigint  not null
) with (fillfactor = 50);
insert into infermq.key_version (number) values (1);

-- Files that tenants stored. One whose `stored_ms` is null is being uploaded, or its upload was cut off.
create table infermq.files (
    id          uuid    not null primary key,
    tenant      text    not null,
    key         text    not null,
    purpose     text    not null,
    name        text    not null,
    -- where its content is: postgres, or the URL and the mark of another store
    store       text    not null,
    -- while it is uploaded in parts, how many of its bytes are kept
    bytes       bigint  not null default 0,
    -- of its content, if it is uploaded in parts: by it the upload goes on after it was cut off
    sha256      bytea,
    created_ms  bigint  not null,
    stored_ms   bigint,
    expires_ms  bigint,
    -- who deletes a file ends all use of it; its content is dropped by upkeep
    deleted_ms  bigint,
    -- its content was dropped. Who still uploaded it may have put more and died, so that is dropped once more later
    dropped_ms  bigint
);
create index files_of_tenant on infermq.files (tenant, id) where stored_ms is not null and deleted_ms is null;
create index files_to_drop on infermq.files (least(expires_ms, deleted_ms))
    where least(expires_ms, deleted_ms) is not null and dropped_ms is null;
create index files_dropped on infermq.files (dropped_ms) where dropped_ms is not null;
create index files_by_content on infermq.files (tenant, sha256) where sha256 is not null and deleted_ms is null;
create index files_unfinished on infermq.files (created_ms) where stored_ms is null and dropped_ms is null;

-- The content of files that are kept here, in pieces of a fixed size before compression.
create table infermq.blobs (
    file        uuid    not null,
    number      int     not null,
    data        bytea   not null,
    primary key (file, number)
);
alter table infermq.blobs alter column data set storage external;

-- Batches whose jobs are lines of a file.
create table infermq.file_batches (
    batch       uuid    not null primary key references infermq.batches (id),
    file        uuid    not null,
    endpoint    text    not null,
    -- as it was asked for, such as 24h; the batch has the deadline
    "window"    text    not null,
    -- whether bad lines are left out; else one of them fails the batch
    skips_bad   boolean not null,
    lines       int     not null default 0,
    bad         int     not null default 0,
    -- when all lines had been checked, and when all good ones were jobs
    checked_ms  bigint,
    expanded_ms bigint,
    -- when it was found that nothing of it runs
    failed_ms   bigint,
    -- the sizes of its two files, once it is complete and somebody asked, and how many of its retries were complete then
    output_bytes bigint,
    error_bytes bigint,
    sized_retries int,
    -- what all its lines ask; null for several
    model       text,
    -- how long its two files can be read after its end, and when somebody deleted them
    files_last_ms bigint,
    output_deleted_ms bigint,
    errors_deleted_ms bigint
);

-- The lines of a batch that cannot run, as its error file shows them.
create table infermq.bad_lines (
    batch       uuid    not null,
    line        int     not null,
    -- JSON as text, since jsonb holds no NUL character, and a line may
    fault       text    not null,
    primary key (batch, line)
);

-- The custom ids of a batch that is being checked, by their hashes. They are dropped when it is.
create table infermq.line_names (
    batch       uuid    not null,
    name        bytea   not null,
    line        int     not null,
    primary key (batch, name)
);

-- Where tenants want to be told what has ended. Their secrets are kept, since messages are signed with them.
create table infermq.webhooks (
    id              uuid    not null primary key,
    tenant          text    not null,
    url             text    not null,
    -- an endpoint without any is told of batches that name it
    events          text[]  not null,
    label           text,
    secret          bytea   not null check (length(secret) between 24 and 64),
    -- the one before it, with which messages are signed too until then
    old_secret      bytea,
    old_until_ms    bigint,
    created_ms      bigint  not null,
    made_by         text    not null,
    disabled_ms     bigint,
    disabled_why    text
);
create index webhooks_of_tenant on infermq.webhooks (tenant, id);
create index webhooks_of_jobs on infermq.webhooks (tenant) where disabled_ms is null and 'job.settled' = any (events);

-- What endpoints are told: a row for each event and endpoint, written in the transaction that makes the event.
create table infermq.deliveries (
    id              uuid    not null primary key,
    tenant          text    not null,
    webhook         uuid    not null,
    -- the same for each endpoint that is told of it
    event           uuid    not null,
    type            text    not null,
    data            jsonb   not null,
    made_ms         bigint  not null,
    -- when it is sent, or sent again; null: it is not any more
    next_ms         bigint,
    -- how often it was sent since it was made or asked for again
    attempts        int     not null default 0,
    delivered_ms    bigint,
    -- the last times that it was sent (schemas/webhooks.py, Try)
    tries           jsonb   not null default '[]'
) with (fillfactor = 70);
create index deliveries_due on infermq.deliveries (next_ms) where next_ms is not null;
create index deliveries_due_to on infermq.deliveries (webhook, next_ms) where next_ms is not null;
create index deliveries_of_tenant on infermq.deliveries (tenant, id);
create index deliveries_made on infermq.deliveries (made_ms);

-- A UUIDv7 of an instant.
create function infermq.id_at(at_ms bigint) returns uuid volatile language sql as $$
    select (lpad(to_hex(at_ms), 12, '0') || '7' || substr(r, 14)) :: uuid
      from replace(gen_random_uuid()::text, '-', '') as r
$$;

-- Writes what the endpoints of a tenant are told of an event: those that listen to it, and the one that is named.
create function infermq.tell(of_tenant text, named uuid, what text, of jsonb, at_ms bigint) returns void language sql as $$
    with event as materialized (select infermq.id_at(at_ms) as id)
    insert into infermq.deliveries (id, tenant, webhook, event, type, data, made_ms, next_ms)
    select infermq.id_at(at_ms), w.tenant, w.id, event.id, what, of, at_ms, at_ms
      from infermq.webhooks w, event
     where w.tenant = of_tenant and w.disabled_ms is null and (w.id = named or what = any (w.events))
$$;

create function infermq.tell_of_batch() returns trigger language plpgsql as $$
declare
    is_of_file boolean;
    has_failed boolean;
begin
    if exists (select from infermq.webhooks where tenant = new.tenant and disabled_ms is null) then
        select true, failed_ms is not null into is_of_file, has_failed from infermq.file_batches where batch = new.id;
        perform infermq.tell(
            new.tenant, new.webhook,
            case when has_failed then 'batch.failed' when new.cancel_ms is not null then 'batch.cancelled'
                 when new.expired > 0 then 'batch.expired' else 'batch.completed' end,
            jsonb_build_object(
                'id', case when is_of_file then 'batch_' || replace(new.id::text, '-', '') else new.id::text end,
                'batch_id', new.id),
            new.completed_ms);
    end if;
    return null;
end $$;
create trigger tell_of_batch after update of completed_ms on infermq.batches
    for each row when (old.completed_ms is null and new.completed_ms is not null)
    execute function infermq.tell_of_batch();

-- Of jobs that are in no batch, and that nobody waits for. A job has a result when it has ended, whatever ended it.
create function infermq.tell_of_job() returns trigger language plpgsql as $$
declare
    job infermq.jobs;
begin
    if exists (select from infermq.webhooks where disabled_ms is null and 'job.settled' = any (events)) then
        select * into job from infermq.jobs where id = new.job;
        if job.lane <> 'interactive' then
            perform infermq.tell(
                job.tenant, null, 'job.settled',
                jsonb_build_object('id', job.id, 'state', job.state, 'custom_id', job.custom_id), job.settled_ms);
        end if;
    end if;
    return null;
end $$;
create trigger tell_of_job after insert on infermq.results
    for each row when (new.batch is null) execute function infermq.tell_of_job();

-- Who changed what: written in the transaction of the change.
create table infermq.audit (
    id      uuid    not null primary key,
    at_ms   bigint  not null,
    tenant  text    not null,
    key     text    not null,
    action  text    not null,
    target  jsonb   not null,
    before  jsonb,
    after   jsonb
);
create index audit_of_tenant on infermq.audit (tenant, id);

-- The partitions of one day, for ids from `low` to below `high`. A table is made apart and then attached, since
-- `create table … partition of` would lock its parent against every reader, and two parents so make deadlocks.
create function infermq.add_day(day text, low uuid, high uuid) returns void language plpgsql as $$
declare
    parent text;
    made   text;
begin
    perform pg_advisory_xact_lock(hashtext('infermq.add_day'));
    foreach parent in array array['jobs', 'bodies', 'executions', 'results'] loop
        made := parent || '_' || day;
        continue when to_regclass('infermq.' || made) is not null;
        execute format('create table infermq.%I (like infermq.%I including all)', made, parent);
        if parent = 'jobs' then
            execute format('alter table infermq.%I set (fillfactor = 85)', made);
        elsif parent in ('bodies', 'results') then
            begin
                execute format('alter table infermq.%I alter column body set compression lz4', made);
            exception when feature_not_supported then
                null;  -- a server built without lz4 compresses its own, slower way
            end;
        end if;
        execute format(
            'alter table infermq.%I attach partition infermq.%I for values from (%L) to (%L)', parent, made, low, high);
    end loop;
end $$;
