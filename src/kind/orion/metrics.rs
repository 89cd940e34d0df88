//! Every family of this kind. They are written by `traffic` (`/admin/metrics`) and `broker` (`/statistics`, `/cache/statistics`,
//! `/version`).

crate::descs! {
    UP = gauge "orion_up" [] "Whether the broker answered /admin/metrics in the last poll, be it that its metrics are switched off.";
    METRICS_ENABLED = gauge "orion_metrics_enabled" [] "Whether the broker counts its traffic; 0 where it was started with -disableMetrics.";
    UPTIME = gauge "orion_uptime_seconds" [] "Time since the broker started, in whole seconds: uptime_in_secs of /statistics, else uptime of /version.";
    BUILD_INFO = gauge "orion_build_info" ["version", "git_hash", "machine"] "Always 1; the labels say which build answers /version. For Orion-LD, version is that of Orion-LD.";

    INCOMING = counter "orion_incoming_transactions_total" ["service", "subservice"] "Requests that the broker completed, to whatever URL (incomingTransactions).";
    INCOMING_ERRORS = counter "orion_incoming_transaction_errors_total" ["service", "subservice"] "Requests that the broker answered with a status of 400 or more (incomingTransactionErrors).";
    INCOMING_REQUEST_BYTES = counter "orion_incoming_transaction_request_bytes_total" ["service", "subservice"] "Body bytes of requests that got as far as having their payload read (incomingTransactionRequestSize).";
    INCOMING_RESPONSE_BYTES = counter "orion_incoming_transaction_response_bytes_total" ["service", "subservice"] "Body bytes of the broker's answers (incomingTransactionResponseSize).";
    OUTGOING = counter "orion_outgoing_transactions_total" ["service", "subservice"] "HTTP notifications and forwarded requests that were attempted; those by MQTT or Kafka are not among them (outgoingTransactions).";
    OUTGOING_ERRORS = counter "orion_outgoing_transaction_errors_total" ["service", "subservice"] "Notifications and forwarded requests that could not be delivered at all; an HTTP status of any kind counts as delivered (outgoingTransactionErrors).";
    OUTGOING_REQUEST_BYTES = counter "orion_outgoing_transaction_request_bytes_total" ["service", "subservice"] "Body bytes of notifications and forwarded requests, delivered or not (outgoingTransactionRequestSize).";
    OUTGOING_RESPONSE_BYTES = counter "orion_outgoing_transaction_response_bytes_total" ["service", "subservice"] "What the answers to notifications and forwarded requests gave as Content-Length (outgoingTransactionResponseSize).";
    SERVICE_TIME_AVERAGE = gauge "orion_service_time_average_seconds" ["service", "subservice"] "Mean time per request over the broker's whole life or since its last reset (serviceTime). For alerts use orion_service_time_seconds_total.";
    SERVICE_TIME = counter "orion_service_time_seconds_total" ["service", "subservice"] "Time spent on requests since the exporter first saw this broker (increases of serviceTime x incomingTransactions). Its rate by that of orion_incoming_transactions_total is the recent mean.";

    MEASURING_INTERVAL = gauge "orion_statistics_measuring_interval_seconds" [] "Time since the counters of /statistics were last reset (measuring_interval_in_secs).";
    REQUESTS = counter "orion_http_requests_total" ["path", "method"] "Requests by URL template and method, the exporter's own among them (counters.requests). Brokers from 3.1 to 3.7 give words in place of URLs.";
    LEGACY_REQUESTS = counter "orion_http_legacy_requests_total" ["path", "method"] "Requests to URLs of NGSIv1, by URL template and method; brokers from 3.8 to 4.2 (counters.requestsLegacy).";
    PAYLOAD_REQUESTS = counter "orion_requests_by_payload_total" ["payload"] "Requests by kind of payload: json, text or none (counters.jsonRequests, textRequests, noPayloadRequests).";
    INVALID_REQUESTS = counter "orion_invalid_requests_total" [] "Requests to URLs that the broker does not have (counters.invalidRequests).";
    MISSED_VERB = counter "orion_missed_verb_requests_total" [] "Requests whose method the broker does not know (counters.missedVerb).";
    REGISTRATION_UPDATE_ERRORS = counter "orion_registration_update_errors_total" [] "Failed updates of registrations (counters.registrationUpdateErrors).";
    DISCOVERY_ERRORS = counter "orion_discovery_errors_total" [] "Failed discoveries of context providers (counters.discoveryErrors).";
    NOTIFICATIONS_SENT = counter "orion_notifications_sent_total" [] "HTTP notifications sent; those by MQTT or Kafka are not among them (counters.notificationsSent).";
    DEPRECATED_FEATURES = counter "orion_deprecated_feature_uses_total" ["feature"] "Uses of features that a later broker will not have (counters.deprecatedFeatures).";
    SIMULATED_NOTIFICATIONS = counter "orion_simulated_notifications_total" [] "Notifications that were only pretended, as -simulatedNotification makes the broker do (simulatedNotifications).";
    SEMAPHORE_WAIT = counter "orion_semaphore_wait_seconds_total" ["semaphore"] "Time that threads waited for a semaphore (semWait).";
    MODULE_TIME = counter "orion_module_time_seconds_total" ["module"] "Time spent in a part of the broker (timing.accumulated without its total).";
    REQUEST_TIME = counter "orion_request_time_seconds_total" [] "Time spent on requests as a whole; contains that of the modules (timing.accumulated.total).";
    QUEUE_IN = counter "orion_notification_queue_in_total" [] "Notifications that entered the queue, of every protocol (notifQueue.in).";
    QUEUE_OUT = counter "orion_notification_queue_out_total" [] "Notifications that a worker took from the queue, of every protocol (notifQueue.out).";
    QUEUE_REJECTED = counter "orion_notification_queue_rejected_total" [] "Notifications lost because the queue was full (notifQueue.reject).";
    QUEUE_SENT = counter "orion_notifications_queue_sent_total" ["result"] "HTTP notifications sent from the queue: ok where any HTTP status came back, else error (notifQueue.sentOk, sentError).";
    QUEUE_WAIT = counter "orion_notification_queue_wait_seconds_total" [] "Time that notifications spent in the queue, all added up (notifQueue.timeInQueue).";
    QUEUE_SIZE = gauge "orion_notification_queue_size" [] "Notifications that wait in the queue now (notifQueue.size).";

    CACHE_ITEMS = gauge "orion_subscription_cache_items" [] "Active subscriptions in the cache (items of /cache/statistics).";
    CACHE_REFRESHES = counter "orion_subscription_cache_refreshes_total" [] "Refreshes of the cache from the database; one that stands still means a stuck thread or database (refresh).";
    CACHE_INSERTS = counter "orion_subscription_cache_inserts_total" [] "Subscriptions put into the cache (inserts).";
    CACHE_REMOVES = counter "orion_subscription_cache_removes_total" [] "Subscriptions taken out of the cache (removes).";
    CACHE_UPDATES = counter "orion_subscription_cache_updates_total" [] "Subscriptions changed in the cache (updates).";
}
