"""Every page, by name."""

PAGES = {
    "overview": "/",
    "messages": "/console/messages",
    "dead-letters": "/console/dead-letters",
    "requeue": "/console/dead-letters/requeue?reason=http_400",
    "discard": "/console/dead-letters/discard",
    "reports": "/console/reports",
    "schedules": "/console/reports/schedules",
    "providers": "/console/providers",
    "move": "/console/providers/move?old=other",
    "callbacks": "/console/callbacks",
    "keys": "/console/keys",
    "settings": "/console/settings",
    "docs": "/docs",
    "missing": "/console/nothing",
    "invalid": "/console/dead-letters?kind=letter",
}
