-- Schema 7: what a machine's days were like, by sizes that the server sees; and what pages and maps lead to.
-- Both are measured when they are asked for first, from snapshots and packs; to lose them costs time only.

CREATE TABLE days (
    machine INTEGER NOT NULL,
    day INTEGER NOT NULL,                  -- since 1970, UTC, by the time of commit
    sequence INTEGER NOT NULL,             -- of the last complete snapshot of the day
    until_ns INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    sent_blobs INTEGER NOT NULL,
    listing_bytes INTEGER NOT NULL,
    content_bytes INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    PRIMARY KEY (machine, day)
) WITHOUT ROWID;

CREATE TABLE reaches (
    blob INTEGER PRIMARY KEY,              -- a page or map
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL                 -- of all below it, sealed
);

CREATE INDEX packs_received ON packs (machine, received_ns, size);
