{{/* Every half-configured combination is refused here, with the value, the reason and the fix. */}}

{{- define "pipelines.checks" -}}
{{- $v := .Values -}}
{{- if and (not $v.postgresql.enabled) (not $v.database.existingSecret) -}}
{{- fail "database.existingSecret: no database is configured. Name a Secret with the keys of database.keys, or set postgresql.enabled=true." -}}
{{- end -}}
{{- if and $v.postgresql.enabled $v.database.existingSecret -}}
{{- fail "database.existingSecret: an external database is named while postgresql.enabled is true, and only one can be used. Set postgresql.enabled=false, or leave database.existingSecret empty." -}}
{{- end -}}
{{- if and $v.postgresql.existingSecret (not $v.postgresql.enabled) -}}
{{- fail "postgresql.existingSecret: it belongs to the chart's own PostgreSQL, and postgresql.enabled is false. Name the Secret of an external database in database.existingSecret." -}}
{{- end -}}
{{- if and (not $v.source.enabled) (not $v.flowRuns.sourceUrl) -}}
{{- fail "flowRuns.sourceUrl: the flows have nothing to fetch from. Set it to your upstream API's URL, or set source.enabled=true for the bundled source." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.flowRuns.sourceUrl (not $v.flowRuns.egress) -}}
{{- fail (printf "flowRuns.egress: the NetworkPolicy keeps flow pods from flowRuns.sourceUrl (%s). Allow it by an egress rule, such as [{to: [{ipBlock: {cidr: 10.1.2.0/24}}], ports: [{port: 443}]}], or set networkPolicy.enabled=false." $v.flowRuns.sourceUrl) -}}
{{- end -}}
{{- with $v.orchestrator.auth -}}
{{- if and (eq .mode "apiKey") (not .apiKeys.existingSecret) -}}
{{- fail "orchestrator.auth.apiKeys.existingSecret: orchestrator.auth.mode is apiKey, and no Secret holds the keys. Name one with the file keys.json (services/orchestrator/README.md, Who may call), or set orchestrator.auth.mode=none." -}}
{{- end -}}
{{- if and .apiKeys.existingSecret (ne .mode "apiKey") -}}
{{- fail (printf "orchestrator.auth.apiKeys.existingSecret: keys are named, and orchestrator.auth.mode is %s, which reads none. Set orchestrator.auth.mode=apiKey, or leave it empty." .mode) -}}
{{- end -}}
{{- if and .tokenAudience (ne .mode "kubernetes") -}}
{{- fail (printf "orchestrator.auth.tokenAudience: it belongs to tokens of the cluster, and orchestrator.auth.mode is %s. Set orchestrator.auth.mode=kubernetes, or leave it empty." .mode) -}}
{{- end -}}
{{- if and (not .metricsOpen) (eq .mode "none") -}}
{{- fail "orchestrator.auth.metricsOpen: it is false, and orchestrator.auth.mode is none, so that nothing could close /metrics. Set a mode, or leave metricsOpen true." -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.telemetry.otlpEndpoint (not $v.telemetry.egress) -}}
{{- fail (printf "telemetry.egress: the NetworkPolicies keep the orchestrator and the flow pods from telemetry.otlpEndpoint (%s). Allow it by an egress rule, such as [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], ports: [{port: 4318}]}], or set networkPolicy.enabled=false." $v.telemetry.otlpEndpoint) -}}
{{- end -}}
{{- if and $v.telemetry.egress (not $v.telemetry.otlpEndpoint) -}}
{{- fail "telemetry.egress: it opens the way to a collector, and telemetry.otlpEndpoint names none. Set telemetry.otlpEndpoint, or leave telemetry.egress empty." -}}
{{- end -}}
{{- $broker := include "pipelines.hasBroker" . -}}
{{- if and $v.valkey.enabled $v.broker.existingSecret -}}
{{- fail "broker.existingSecret: a broker of your own is named while valkey.enabled is true, and only one can be used. Set valkey.enabled=false, or leave broker.existingSecret empty." -}}
{{- end -}}
{{- if and (gt (int $v.prefectServer.replicas) 1) (not $broker) -}}
{{- fail (printf "prefectServer.replicas: %d API pods would each keep messages, leases and queued work to themselves, so that events, slots and cancellations are missed. Set valkey.enabled=true, or name a Redis in broker.existingSecret." (int $v.prefectServer.replicas)) -}}
{{- end -}}
{{- if and (gt (int $v.prefectServer.replicas) 1) (not $v.prefectServer.separateServices) -}}
{{- fail (printf "prefectServer.replicas: %d API pods would each run the background services, which are for one process. Set prefectServer.separateServices=true." (int $v.prefectServer.replicas)) -}}
{{- end -}}
{{- if and $v.prefectServer.separateServices (not $broker) -}}
{{- fail "prefectServer.separateServices: the API and the services in two pods share nothing without a broker. Set valkey.enabled=true, or name a Redis in broker.existingSecret." -}}
{{- end -}}
{{- if and $v.broker.egress (not $v.broker.existingSecret) -}}
{{- fail "broker.egress: it opens the way to a broker of your own, and broker.existingSecret names none. Set broker.existingSecret, or leave broker.egress empty." -}}
{{- end -}}
{{- with $v.expose -}}
{{- if eq .by "none" -}}
{{- if or .host .prefect.host -}}
{{- fail "expose.by: a host name is given, and expose.by is none, so that nothing would answer under it. Set expose.by to ingress or gateway, or leave the host names empty." -}}
{{- end -}}
{{- else -}}
{{- if not .host -}}
{{- fail (printf "expose.host: expose.by is %s, and no host name says for whom. Set expose.host, such as pipelines.example.com." .by) -}}
{{- end -}}
{{- if eq $v.orchestrator.auth.mode "none" -}}
{{- fail (printf "expose.by: it is %s, and orchestrator.auth.mode is none, so that anybody could start and cancel runs. Set orchestrator.auth.mode to apiKey or kubernetes, or expose.by=none." .by) -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.orchestrator.allowFrom) -}}
{{- fail "orchestrator.allowFrom: the NetworkPolicies keep the proxy of expose from the API. Name its pods, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}], or set networkPolicy.enabled=false." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (or .prefect.host .prefect.path) (not $v.prefectServer.allowFrom) -}}
{{- fail "prefectServer.allowFrom: the NetworkPolicies keep the proxy of expose from Prefect. Name its pods, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}], or leave expose.prefect empty." -}}
{{- end -}}
{{- end -}}
{{- if and (eq .by "gateway") (not .gateways) -}}
{{- fail "expose.gateways: expose.by is gateway, and no Gateway is named for the HTTPRoutes to hang on. Name one, such as [{name: public, namespace: gateways}]." -}}
{{- end -}}
{{- if and .gateways (ne .by "gateway") -}}
{{- fail (printf "expose.gateways: Gateways are named, and expose.by is %s. Set expose.by=gateway, or leave expose.gateways empty." .by) -}}
{{- end -}}
{{- if and .ingressClassName (ne .by "ingress") -}}
{{- fail (printf "expose.ingressClassName: it belongs to an Ingress, and expose.by is %s. Set expose.by=ingress, or leave it empty." .by) -}}
{{- end -}}
{{- if and .prefect.host (eq .prefect.host .host) (not .prefect.path) -}}
{{- fail (printf "expose.prefect.host: %s is the API's host too, and both would be at its root. Give Prefect another host, or set expose.prefect.path, such as /prefect." .host) -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" (include "pipelines.fullname" .)) -}}
{{- fail (printf "fullnameOverride: the release name %s starts with a digit, and a Service's name may not. Set fullnameOverride to a name that starts with a letter." .Release.Name) -}}
{{- end -}}
{{- range $kind, $values := dict "pipelines[].name" (list "name") "pipelines[].flow and .deployment" (list "flow" "deployment") -}}
{{- $seen := dict -}}
{{- range $pipeline := $v.pipelines -}}
{{- $key := "" -}}
{{- range $values -}}{{- $key = printf "%s/%s" $key (index $pipeline .) -}}{{- end -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "%s: %s stands twice, and a pipeline must be one deployment under one name. Rename or remove one." $kind (trimPrefix "/" $key)) -}}
{{- end -}}
{{- $_ := set $seen $key true -}}
{{- end -}}
{{- end -}}
{{- $flowImages := list "prefect" "etl" "delay_model" "orchestrator" "source" "postgresql" "valkey" -}}
{{- range $pipeline := $v.pipelines -}}
{{- with $pipeline.image -}}
{{- if and (not (regexMatch "[/:@]" .)) (not (kindIs "map" (index $v.images .))) -}}
{{- fail (printf "pipelines[].image: the pipeline %s names %s, and images has no such entry. Add images.%s={repository: …, tag: …}, or name the image in full, with its tag." $pipeline.name . .) -}}
{{- end -}}
{{- $flowImages = append $flowImages . -}}
{{- end -}}
{{- end -}}
{{- range $name, $image := $v.images -}}
{{- if and (kindIs "map" $image) (not (has $name $flowImages)) -}}
{{- fail (printf "images.%s: no pipeline names it. Name it in pipelines[].image, or leave it out." $name) -}}
{{- end -}}
{{- end -}}
{{- range $pipeline := $v.pipelines -}}
{{- $slugs := list -}}
{{- range $schedule := $pipeline.schedules -}}
{{- if has $schedule.slug $slugs -}}
{{- fail (printf "pipelines[].schedules[].slug: %s stands twice in the pipeline %s, and a schedule is known by its slug. Give each its own." $schedule.slug $pipeline.name) -}}
{{- end -}}
{{- $slugs = append $slugs $schedule.slug -}}
{{- end -}}
{{- /* Prefect itself names a flow without a name of its own by its function, with dashes. */ -}}
{{- if not (hasSuffix (printf ".%s" ($pipeline.flow | replace "-" "_")) $pipeline.entrypoint) -}}
{{- fail (printf "pipelines[].flow: %s does not match the entrypoint %s. Name the flow as its function is named." $pipeline.flow $pipeline.entrypoint) -}}
{{- end -}}
{{- end -}}
{{- with $v.monitoring.serviceMonitor -}}
{{- if and .enabled $v.networkPolicy.enabled (not $v.orchestrator.allowFrom) -}}
{{- fail "monitoring.serviceMonitor.enabled: the NetworkPolicy keeps every scraper from the orchestrator. Let yours in by orchestrator.allowFrom, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], or set networkPolicy.enabled=false." -}}
{{- end -}}
{{- if and .enabled (not $v.orchestrator.auth.metricsOpen) (not .credentials.existingSecret) -}}
{{- fail "monitoring.serviceMonitor.credentials.existingSecret: orchestrator.auth.metricsOpen is false, and the scraper has no credential. Name a Secret with a bearer token, or set orchestrator.auth.metricsOpen=true." -}}
{{- end -}}
{{- if and .credentials.existingSecret $v.orchestrator.auth.metricsOpen -}}
{{- fail "monitoring.serviceMonitor.credentials.existingSecret: a credential is named, and orchestrator.auth.metricsOpen is true, so that none is asked for. Set orchestrator.auth.metricsOpen=false, or leave it empty." -}}
{{- end -}}
{{- end -}}
{{- range $alert := $v.monitoring.rules.exclude -}}
{{- if not ($.Files.Get (printf "alerts/%s.yaml" $alert)) -}}
{{- fail (printf "monitoring.rules.exclude: there is no alert %s. The folder alerts/ of the chart has a file for each." $alert) -}}
{{- end -}}
{{- end -}}
{{- range $name, $hours := $v.monitoring.rules.hoursWithoutSuccess -}}
{{- $scheduled := false -}}
{{- range $v.pipelines -}}{{- if and (eq .name $name) .schedules -}}{{- $scheduled = true -}}{{- end -}}{{- end -}}
{{- if not $scheduled -}}
{{- fail (printf "monitoring.rules.hoursWithoutSuccess: no pipeline %s with a schedule is in pipelines, and others are not expected to complete. Name one of those, or remove it." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
