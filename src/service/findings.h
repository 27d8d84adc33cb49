/* SPDX-License-Identifier: MIT */
/* What a check or a scrub found, as JSON. */
#ifndef GOLDFS_SERVICE_FINDINGS_H
#define GOLDFS_SERVICE_FINDINGS_H

#include <jansson.h>

struct check_report;

/* {"damaged": N, ..., "findings": [{...}, ...]}; NULL without memory. */
json_t *findings_json(const struct check_report *report);

#endif
