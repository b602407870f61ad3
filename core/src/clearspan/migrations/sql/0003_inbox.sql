-- Tries of a message that ended with their process; they take no step of the growing distances.
ALTER TABLE webhook_inbox ADD COLUMN cut_short integer NOT NULL DEFAULT 0;
