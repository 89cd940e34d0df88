//! Every family of this kind. They are written by `traffic` (`/admin/metrics`) and `broker` (`/statistics`, `/cache/statistics`,
//! `/version`).

crate::descs! {
    UP = gauge "orion_up" [] "Whether the broker answered /admin/metrics in the last poll, even if its metrics are disabled.";
    METRICS_ENABLED = gauge "orion_metrics_enabled" [] "Whether the broker counts its traffic; 0 if it was started with -disableMetrics.";
    UPTIME = gauge "orion_uptime_seconds" [] "Time since the broker started, in whole seconds: uptime_in_secs of /statistics, otherwise uptime of /version.";
    BUILD_INFO = gauge "orion_build_info" ["version", "git_hash", "machine"] "Build that answers /version, in the labels. For Orion-LD, version is that of Orion-LD. Always 1.";

    INCOMING = counter "orion_incoming_transactions_total" ["service", "subservice"] "Requests that the broker completed, to any URL (incomingTransactions).";
    INCOMING_ERRORS = counter "orion_incoming_transaction_errors_total" ["service", "subservice"] "Requests to which the broker responded with status 400 or higher (incomingTransactionErrors).";
    INCOMING_REQUEST_BYTES = counter "orion_incoming_transaction_request_bytes_total" ["service", "subservice"] "Body bytes of requests whose payload was read (incomingTransactionRequestSize).";
    INCOMING_RESPONSE_BYTES = counter "orion_incoming_transaction_response_bytes_total" ["service", "subservice"] "Body bytes of the broker's responses (incomingTransactionResponseSize).";
    OUTGOING = counter "orion_outgoing_transactions_total" ["service", "subservice"] "Attempted HTTP notifications and forwarded requests, excluding those by MQTT or Kafka (outgoingTransactions).";
    OUTGOING_ERRORS = counter "orion_outgoing_transaction_errors_total" ["service", "subservice"] "Notifications and forwarded requests that could not be delivered; a response with any HTTP status counts as delivered (outgoingTransactionErrors).";
    OUTGOING_REQUEST_BYTES = counter "orion_outgoing_transaction_request_bytes_total" ["service", "subservice"] "Body bytes of notifications and forwarded requests, delivered or not (outgoingTransactionRequestSize).";
    OUTGOING_RESPONSE_BYTES = counter "orion_outgoing_transaction_response_bytes_total" ["service", "subservice"] "Total Content-Length of the responses to notifications and forwarded requests (outgoingTransactionResponseSize).";
    SERVICE_TIME_AVERAGE = gauge "orion_service_time_average_seconds" ["service", "subservice"] "Mean time per request since the broker started or was last reset (serviceTime). For alerts, use orion_service_time_seconds_total.";
    SERVICE_TIME = counter "orion_service_time_seconds_total" ["service", "subservice"] "Time spent on requests since the exporter first saw this broker (increases of serviceTime x incomingTransactions). Its rate divided by the rate of orion_incoming_transactions_total is the recent mean.";

    MEASURING_INTERVAL = gauge "orion_statistics_measuring_interval_seconds" [] "Time since the counters of /statistics were last reset (measuring_interval_in_secs).";
    REQUESTS = counter "orion_http_requests_total" ["path", "method"] "Requests by URL template and method, including those of the exporter (counters.requests). Brokers from 3.1 to 3.7 report words instead of URLs.";
    LEGACY_REQUESTS = counter "orion_http_legacy_requests_total" ["path", "method"] "Requests to URLs of NGSIv1, by URL template and method; brokers from 3.8 to 4.2 (counters.requestsLegacy).";
    PAYLOAD_REQUESTS = counter "orion_requests_by_payload_total" ["payload"] "Requests by kind of payload: json, text or none (counters.jsonRequests, textRequests, noPayloadRequests).";
    INVALID_REQUESTS = counter "orion_invalid_requests_total" [] "Requests to URLs that do not exist (counters.invalidRequests).";
    MISSED_VERB = counter "orion_missed_verb_requests_total" [] "Requests with an unknown method (counters.missedVerb).";
    REGISTRATION_UPDATE_ERRORS = counter "orion_registration_update_errors_total" [] "Failed updates of registrations (counters.registrationUpdateErrors).";
    DISCOVERY_ERRORS = counter "orion_discovery_errors_total" [] "Failed discoveries of context providers (counters.discoveryErrors).";
    NOTIFICATIONS_SENT = counter "orion_notifications_sent_total" [] "HTTP notifications sent, excluding those by MQTT or Kafka (counters.notificationsSent).";
    DEPRECATED_FEATURES = counter "orion_deprecated_feature_uses_total" ["feature"] "Uses of deprecated features (counters.deprecatedFeatures).";
    SIMULATED_NOTIFICATIONS = counter "orion_simulated_notifications_total" [] "Notifications simulated instead of sent, because of -simulatedNotification (simulatedNotifications).";
    SEMAPHORE_WAIT = counter "orion_semaphore_wait_seconds_total" ["semaphore"] "Time that threads waited for a semaphore (semWait).";
    MODULE_TIME = counter "orion_module_time_seconds_total" ["module"] "Time spent in each module of the broker (timing.accumulated without its total).";
    REQUEST_TIME = counter "orion_request_time_seconds_total" [] "Total time spent on requests, including the time of the modules (timing.accumulated.total).";
    QUEUE_IN = counter "orion_notification_queue_in_total" [] "Notifications of all protocols that entered the queue (notifQueue.in).";
    QUEUE_OUT = counter "orion_notification_queue_out_total" [] "Notifications of all protocols that a worker took from the queue (notifQueue.out).";
    QUEUE_REJECTED = counter "orion_notification_queue_rejected_total" [] "Notifications lost because the queue was full (notifQueue.reject).";
    QUEUE_SENT = counter "orion_notifications_queue_sent_total" ["result"] "HTTP notifications sent from the queue: ok if a response with any HTTP status was received, otherwise error (notifQueue.sentOk, sentError).";
    QUEUE_WAIT = counter "orion_notification_queue_wait_seconds_total" [] "Total time that notifications spent in the queue (notifQueue.timeInQueue).";
    QUEUE_SIZE = gauge "orion_notification_queue_size" [] "Notifications currently waiting in the queue (notifQueue.size).";

    CACHE_ITEMS = gauge "orion_subscription_cache_items" [] "Active subscriptions in the cache (items of /cache/statistics).";
    CACHE_REFRESHES = counter "orion_subscription_cache_refreshes_total" [] "Refreshes of the cache from the database; if it stops increasing, the thread or the database is stuck (refresh).";
    CACHE_INSERTS = counter "orion_subscription_cache_inserts_total" [] "Subscriptions inserted into the cache (inserts).";
    CACHE_REMOVES = counter "orion_subscription_cache_removes_total" [] "Subscriptions removed from the cache (removes).";
    CACHE_UPDATES = counter "orion_subscription_cache_updates_total" [] "Subscriptions updated in the cache (updates).";
}
