/* SPDX-License-Identifier: MIT */
/* The keys are those of `goldfs check --json`. */
#include "service/findings.h"

#include "base/cleanup.h"
#include "base/sizes.h"
#include "core/check.h"
#include "service/names.h"

static json_t *finding_json(const struct check_finding *f)
{
	json_t *paths = json_array();

	for (size_t i = 0; i < f->path_count; i++)
		json_array_append_new(paths, name_json(f->paths[i]));
	return json_pack("{s:s, s:s, s:s, s:o, s:I, s:I, s:o, s:o, s:s}", "severity",
		f->severity == CHECK_DAMAGE ? "damage" : "note", "state",
		f->repaired ? "repaired" : "found", "structure", f->structure, "place",
		name_json(f->place), "offset", (json_int_t)f->offset, "length_bytes",
		(json_int_t)f->length, "problem", name_json(f->text), "paths", paths, "action",
		f->repaired ? "" : f->advice);
}

json_t *findings_json(const struct check_report *r)
{
	json_t *list = json_array(), *report;
	uint64_t damage = r->damaged;

	for (size_t i = 0; i < r->count; i++) {
		const struct check_finding *f = &r->findings[i];

		damage += f->severity == CHECK_DAMAGE && f->repaired;
		json_array_append_new(list, finding_json(f));
	}
	report = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "damage_found",
		(json_int_t)damage, "damaged", (json_int_t)r->damaged, "repaired",
		(json_int_t)r->repaired, "not_listed", (json_int_t)r->suppressed, "layers",
		(json_int_t)r->layers, "golden_images", (json_int_t)r->golden_images, "blocks",
		(json_int_t)r->blocks, "journaled_blocks", (json_int_t)r->journaled_blocks,
		"suspect_blocks", (json_int_t)r->suspect_blocks, "read_bytes",
		(json_int_t)r->bytes_read);
	if (report)
		json_object_set_new(report, "findings", list);
	else
		json_decref(list);
	return report;
}
