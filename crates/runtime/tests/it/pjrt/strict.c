/* A PJRT plugin as strict as AWS's: struct sizes must be those of header 0.115, to the byte. Two devices, listed backwards.
 * Its only program is the identity; the program's text asks for faults. Attributes count the live objects. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { size_t size; void *more; } Head;
typedef struct { int code; char text[160]; } Error;
typedef struct { Error *error; } Event;
typedef struct { int id; } Device;
typedef struct { Device *device; int element; int64_t dims[8]; size_t rank, bytes; char *data; int deleted; } Buffer;
typedef struct { char fault[32]; } Executable;

static int64_t live;
static Device devices[2] = {{1}, {0}};
static Device *listed[2] = {&devices[0], &devices[1]};

static void *make(size_t bytes) { live++; return calloc(1, bytes); }
static void drop(void *object) { live--; free(object); }

static Error *fail(int code, const char *text, long a, long b) {
  Error *error = make(sizeof *error);
  error->code = code;
  snprintf(error->text, sizeof error->text, text, a, b);
  return error;
}

/* Every function: `args` of exactly `bytes` bytes. */
#define STRICT(name, bytes, fields) \
  typedef struct { Head head; fields } name##_args; \
  static Error *name##_body(name##_args *args); \
  static void *name(name##_args *args) { \
    if (args->head.size != bytes) return fail(3, #name " has %ld bytes, not %ld", args->head.size, bytes); \
    return name##_body(args); \
  } \
  static Error *name##_body(name##_args *args)

STRICT(error_destroy, 24, Error *error;) { drop(args->error); return 0; }
STRICT(error_message, 40, Error *error; const char *text; size_t len;) {
  args->text = args->error->text;
  args->len = strlen(args->error->text);
  return 0;
}
STRICT(error_code, 28, Error *error; int code;) { args->code = args->error->code; return 0; }
STRICT(initialize, 16, ) { return 0; }

typedef struct { Head head; const char *name; size_t name_len; int kind; int64_t value; size_t len; } Named;
static Named attributes[1];
STRICT(plugin_attributes, 32, Named *items; size_t len;) {
  attributes[0] = (Named){{56, 0}, "live", 4, 1, live, 1};
  args->items = attributes;
  args->len = 1;
  return 0;
}

STRICT(event_destroy, 24, Event *event;) { drop(args->event); return 0; }
STRICT(event_await, 24, Event *event;) {
  Error *error = args->event->error;
  args->event->error = 0;
  return error;
}

STRICT(client_create, 88, Named *options; size_t num_options; void *callbacks[4]; void *client; void *more[2];) {
  if (args->num_options != 1 || args->options->head.size != 56) return fail(3, "options: %ld, %ld", args->num_options, 0);
  if (memcmp(args->options->name, "answer", 6) || args->options->value != 42) return fail(5, "no answer", 0, 0);
  args->client = make(1);
  return 0;
}
STRICT(client_destroy, 24, void *client;) { drop(args->client); return 0; }
STRICT(client_name, 40, void *client; const char *text; size_t len;) { args->text = "strict"; args->len = 6; return 0; }
STRICT(client_devices, 40, void *client; Device **items; size_t len;) { args->items = listed; args->len = 2; return 0; }

typedef struct { Head head; const char *code; size_t len; const char *format; size_t format_len; } Program;
STRICT(compile, 56, void *client; Program *program; const char *options; size_t options_len; Executable *executable;) {
  if (args->program->head.size != 48) return fail(3, "the program has %ld bytes", args->program->head.size, 0);
  if (args->program->format_len != 4 || memcmp(args->program->format, "mlir", 4)) return fail(3, "not mlir", 0, 0);
  if (!args->program->len) return fail(3, "an empty program: line %ld, column %ld", 1, 2);
  args->executable = make(sizeof *args->executable);
  memcpy(args->executable->fault, args->program->code, args->program->len);
  return 0;
}
STRICT(from_host, 120, void *client; const char *data; int element; const int64_t *dims; size_t rank; const int64_t *strides;
       size_t num_strides; int semantics; Device *device; void *memory; void *layout; Event *done; Buffer *buffer;) {
  Buffer *buffer = make(sizeof *buffer);
  buffer->device = args->device;
  buffer->element = args->element;
  buffer->rank = args->rank;
  buffer->bytes = 4;
  for (size_t i = 0; i < args->rank; i++) buffer->bytes *= buffer->dims[i] = args->dims[i];
  buffer->data = malloc(buffer->bytes);
  memcpy(buffer->data, args->data, buffer->bytes);
  args->buffer = buffer;
  args->done = make(sizeof(Event));
  return 0;
}
STRICT(description_id, 28, Device *device; int out;) { args->out = args->device->id + 10; return 0; }
STRICT(description_kind, 40, Device *device; const char *text; size_t len;) { args->text = "core"; args->len = 4; return 0; }
STRICT(device_description, 32, Device *device; Device *out;) { args->out = args->device; return 0; }
STRICT(device_local_id, 28, Device *device; int out;) { args->out = args->device->id; return 0; }
/* A program is destroyed apart from its place on the devices; here only the latter is an object. */
STRICT(executable_destroy, 24, Executable *executable;) {
  return strcmp(args->executable->fault, "sticky") ? 0 : fail(13, "will not go", 0, 0);
}
STRICT(num_outputs, 32, Executable *executable; size_t out;) { args->out = 1; return 0; }
STRICT(loaded_destroy, 24, Executable *executable;) {
  /* Leaked on purpose: `executable_destroy` comes later and looks at it. */
  live--;
  return 0;
}
STRICT(loaded_executable, 32, Executable *loaded; Executable *out;) { args->out = args->loaded; return 0; }
STRICT(loaded_devices, 40, Executable *loaded; Device **items; size_t len;) { args->items = listed; args->len = 2; return 0; }

typedef struct {
  Head head; void *send, *receive; size_t num_send, num_receive; int launch_id;
  const int64_t *kept; size_t num_kept; void *context; const char *location;
  size_t num_tasks; int *tasks; int64_t *incarnations; void *slices; _Bool row_major; void *callbacks; size_t num_callbacks;
} Options;
STRICT(execute, 80, Executable *executable; Options *options; Buffer *const *const *arguments; size_t num_devices;
       size_t num_arguments; Buffer **const *outputs; Event **done; Device *device;) {
  const char *fault = args->executable->fault;
  if (args->options->head.size != 144) return fail(3, "options have %ld bytes", args->options->head.size, 0);
  if (!args->done) return fail(3, "no slots for events", 0, 0);
  if (!strcmp(fault, "refuse")) return fail(8, "out of memory", 0, 0);
  for (size_t rank = 0; rank < args->num_devices; rank++) {
    Buffer *from = args->arguments[rank][0], *to = make(sizeof *to);
    if (from->deleted) return fail(3, "deleted", 0, 0);
    int kept = 0;
    for (size_t i = 0; i < args->options->num_kept; i++) kept |= args->options->kept[i] == 0;
    *to = *from;
    if (kept) {
      to->data = malloc(to->bytes);
      memcpy(to->data, from->data, to->bytes);
    } else {
      from->deleted = 1;
      from->data = 0;
    }
    if (!strcmp(fault, "negative")) to->dims[0] = -1;
    if (!strcmp(fault, "type")) to->element = 99;
    args->outputs[rank][0] = to;
    args->done[rank] = make(sizeof(Event));
    if (!strcmp(fault, "late") && rank == 1) args->done[rank]->error = fail(13, "rank %ld fell over", rank, 0);
  }
  return 0;
}
STRICT(buffer_destroy, 24, Buffer *buffer;) { free(args->buffer->data); drop(args->buffer); return 0; }
STRICT(buffer_element, 28, Buffer *buffer; int out;) { args->out = args->buffer->element; return 0; }
STRICT(buffer_dims, 40, Buffer *buffer; int64_t *dims; size_t rank;) {
  args->dims = args->buffer->dims;
  args->rank = args->buffer->rank;
  return 0;
}
STRICT(buffer_is_deleted, 25, Buffer *buffer; _Bool out;) { args->out = args->buffer->deleted; return 0; }
STRICT(to_host, 56, Buffer *buffer; void *layout; char *out; size_t len; Event *event;) {
  if (args->len != args->buffer->bytes) return fail(3, "%ld bytes, not %ld", args->len, args->buffer->bytes);
  memcpy(args->out, args->buffer->data, args->len);
  args->event = make(sizeof(Event));
  return 0;
}

static struct { size_t size; void *extensions; size_t version_size; void *more; int major, minor; void *slots[138]; } table = {
  1144, 0, 24, 0, 0, 115,
  {[0] = error_destroy, [1] = error_message, [2] = error_code, [3] = initialize, [4] = plugin_attributes,
   [5] = event_destroy, [8] = event_await, [10] = client_create, [11] = client_destroy, [12] = client_name,
   [14] = client_name, [16] = client_devices, [20] = compile, [22] = from_host, [23] = description_id,
   [26] = description_kind, [29] = device_description, [31] = device_local_id, [40] = executable_destroy,
   [44] = num_outputs, [50] = loaded_destroy, [51] = loaded_executable, [52] = loaded_devices, [55] = execute,
   [58] = buffer_destroy, [59] = buffer_element, [60] = buffer_dims, [68] = buffer_is_deleted, [70] = to_host}};

void *GetPjrtApi(void) { return &table; }
