-- Tries of a message that ended with their process; they take no step of the growing distances.
ALTER TABLE webhook_inbox ADD COLUMN cut_short integer NOT NULL DEFAULT 0;

-- A refund that failed after it had succeeded may be heard of in that order: the failure first, then the answer that it succeeded.
CREATE OR REPLACE FUNCTION operation_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE before
        WHEN 'prepared'        THEN after IN ('submitted', 'not_sent', 'unknown')
        WHEN 'submitted'       THEN after IN ('not_sent', 'succeeded', 'declined', 'requires_action', 'pending', 'unknown')
        WHEN 'requires_action' THEN after IN ('succeeded', 'declined', 'expired', 'pending', 'unknown')
        WHEN 'pending'         THEN after IN ('succeeded', 'declined', 'expired', 'unknown')
        WHEN 'unknown'         THEN after IN ('succeeded', 'declined', 'pending', 'requires_action', 'expired', 'not_charged',
                                              'needs_review')
        WHEN 'needs_review'    THEN after IN ('succeeded', 'declined', 'not_charged')
        WHEN 'succeeded'       THEN after = 'reversed' -- refunds only, see guard_operation
        WHEN 'declined'        THEN after IN ('surplus', 'reversed')
        WHEN 'expired'         THEN after = 'surplus'
        WHEN 'not_charged'     THEN after = 'surplus'
        WHEN 'not_sent'        THEN after = 'surplus'
        ELSE false
    END;
