-- Schema 5: which events an admin knows of.

CREATE TABLE acknowledged (
    -- By the sequence of the event; the first word counts.
    sequence INTEGER PRIMARY KEY,
    pin BLOB NOT NULL,
    time_ns INTEGER NOT NULL
);
