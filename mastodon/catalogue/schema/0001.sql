-- The catalogue, schema 1. Derived from ledger and packs: whatever stands here can be made anew from the spools.
-- Machines, packs and blobs have small numbers, so that their 32-byte ids are stored once.

CREATE TABLE applied (
    -- The ledger entry up to which this catalogue has followed the chain.
    only INTEGER PRIMARY KEY CHECK (only = 1),
    chain BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL
);

CREATE TABLE tenants (
    tenant BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    order_key BLOB NOT NULL,
    successor BLOB NOT NULL,
    request BLOB NOT NULL,
    counter INTEGER NOT NULL DEFAULT 0,
    added_ns INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE certificates (
    pin BLOB PRIMARY KEY,
    tenant BLOB NOT NULL,
    role INTEGER NOT NULL,
    label TEXT NOT NULL,
    machine BLOB NOT NULL,
    root BLOB NOT NULL,
    expires_ns INTEGER NOT NULL,
    added_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX certificates_tenant ON certificates (tenant);

CREATE TABLE removed_certificates (
    -- Terminal: a pin that stands here is never registered again, in whatever order the ledger says so.
    pin BLOB PRIMARY KEY,
    removed_ns INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE machines (
    number INTEGER PRIMARY KEY,
    machine BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    public_key BLOB NOT NULL,
    handle BLOB NOT NULL,
    generation INTEGER NOT NULL,
    enrolment BLOB NOT NULL,
    state INTEGER NOT NULL,
    pair INTEGER,                          -- newest pair, by number in pairs
    head_sequence INTEGER NOT NULL DEFAULT 0,
    head_hash BLOB NOT NULL DEFAULT x'',
    snapshots INTEGER NOT NULL DEFAULT 0,
    kept_bytes INTEGER NOT NULL DEFAULT 0,
    seen_ns INTEGER NOT NULL DEFAULT 0,
    closure INTEGER NOT NULL DEFAULT 0     -- grows whenever "closed" was taken back
);
CREATE INDEX machines_tenant ON machines (tenant);

CREATE TABLE pairs (
    number INTEGER PRIMARY KEY,
    machine INTEGER NOT NULL,
    pair BLOB NOT NULL,
    nth INTEGER NOT NULL,                  -- the machine's own number of it
    hash BLOB NOT NULL,
    time_ns INTEGER NOT NULL,
    public_key BLOB NOT NULL,
    reenveloped INTEGER NOT NULL DEFAULT 0,
    blobs INTEGER NOT NULL DEFAULT 0,      -- sealings under this pair that are there
    UNIQUE (machine, pair)
);
CREATE INDEX pairs_nth ON pairs (machine, nth);
CREATE INDEX pairs_time ON pairs (machine, time_ns);

CREATE TABLE envelopes (
    -- Pair and re-envelope records with their envelopes, in the order of the ledger.
    sequence INTEGER PRIMARY KEY,
    machine INTEGER NOT NULL,
    pair BLOB NOT NULL,
    reenvelope INTEGER NOT NULL,
    hash BLOB NOT NULL,
    record BLOB NOT NULL,
    envelope BLOB NOT NULL
);
CREATE INDEX envelopes_machine ON envelopes (machine, pair);
CREATE INDEX envelopes_hash ON envelopes (machine, hash);

CREATE TABLE runs (
    machine INTEGER NOT NULL,
    run BLOB NOT NULL,
    pair INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (machine, run)
) WITHOUT ROWID;

CREATE TABLE packs (
    number INTEGER PRIMARY KEY,
    pack BLOB NOT NULL UNIQUE,
    machine INTEGER NOT NULL,
    size INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,
    copies INTEGER NOT NULL DEFAULT 0      -- places where it is there
);

CREATE TABLE places (
    spool BLOB NOT NULL,
    day TEXT NOT NULL,
    pack INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (spool, day, pack)
) WITHOUT ROWID;
CREATE INDEX places_pack ON places (pack);

CREATE TABLE blobs (
    -- What an id is, fixed by its first sealing; outlives its bytes.
    number INTEGER PRIMARY KEY,
    machine INTEGER NOT NULL,
    blob BLOB NOT NULL,
    kind INTEGER NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (machine, blob)
);
CREATE INDEX blobs_closed ON blobs (machine) WHERE closed = 1;

CREATE TABLE blob_references (
    -- Ids that a map, page or root refers to, 32 bytes each, one after the other.
    blob INTEGER PRIMARY KEY,
    ids BLOB NOT NULL
);

CREATE TABLE sealings (
    blob INTEGER NOT NULL,
    pack INTEGER NOT NULL,
    pair INTEGER NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (blob, pack, start)
) WITHOUT ROWID;
CREATE INDEX sealings_pack ON sealings (pack);

CREATE TABLE snapshots (
    machine INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    hash BLOB NOT NULL,
    status INTEGER NOT NULL,
    root BLOB NOT NULL,
    record BLOB NOT NULL,
    time_ns INTEGER NOT NULL,
    clock_trusted INTEGER NOT NULL,
    PRIMARY KEY (machine, sequence)
) WITHOUT ROWID;
CREATE INDEX snapshots_time ON snapshots (machine, time_ns);

CREATE TABLE books (
    tenant BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    hash BLOB NOT NULL,
    book BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    code INTEGER NOT NULL,
    tenant BLOB NOT NULL,
    machine BLOB NOT NULL,
    detail TEXT NOT NULL,
    time_ns INTEGER NOT NULL
);
CREATE INDEX events_tenant ON events (tenant);
