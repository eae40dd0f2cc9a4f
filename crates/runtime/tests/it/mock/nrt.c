/* A libnrt for tests: the functions of `crates/runtime/src/neuron/abi.rs` with real memory and a tiny program format.
 *
 * Beside the library's file lie
 *   log      to which every call appends a line
 *   faults   lines `function status`, written by a test: that call then answers that status
 * Flags for the compiler:
 *   -DWITHOUT_<function>   leaves a function out
 *   -DOLD_NAMES            only the older names of the counting functions, and no memory statistics
 *   -DVISIBLE_CORES=<n>    what is said to be there
 *
 * A program is a NEFF header of 1024 bytes, then text lines:
 *   in NAME DTYPE BYTES DIM...      a tensor that is read
 *   out NAME DTYPE BYTES DIM...     a tensor that is written
 *   add A B OUT                     OUT = A + B, f32
 *   scale A FACTOR OUT              OUT = A * FACTOR, f32
 *   hostile KIND                    makes the description of the tensors a lie
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 2, RESOURCE = 4, NOT_ENOUGH_CORES = 9, UNINITIALIZED = 13, CLOSED = 14, BAD_INPUT = 1002 };
enum { CORES = 4, MOST = 16, NAME = 256 };
enum { LIMIT = 1 << 20 };

typedef struct {
    char name[NAME];
    uint32_t usage;
    size_t size;
    uint32_t dtype;
    uint32_t *shape;
    uint32_t ndim;
} info_t;

typedef struct {
    uint64_t count;
    info_t infos[];
} infos_t;

typedef struct {
    char op;
    char a[NAME], b[NAME], out[NAME];
    float factor;
} step_t;

typedef struct {
    int infos, steps;
    info_t info[MOST];
    uint32_t shape[MOST][8];
    step_t step[MOST];
    char hostile[32];
} model_t;

typedef struct tensor {
    unsigned char *data;
    size_t size;
    int freed;
    struct tensor *source;
} tensor_t;

typedef struct {
    int count, added;
    char name[MOST][NAME];
    tensor_t *tensor[MOST], *ever[4 * MOST];
} set_t;

static _Atomic int state = UNINITIALIZED;
static _Atomic int models, tensors, sets, infos;
static _Atomic size_t used;

/* A file in the folder of this library. */
static FILE *beside(const char *name, const char *mode) {
    Dl_info self;
    char path[4096];
    if (dladdr((void *)&beside, &self) == 0 || strlen(self.dli_fname) + strlen(name) >= sizeof path) abort();
    strcpy(path, self.dli_fname);
    strcpy(strrchr(path, '/') + 1, name);
    return fopen(path, mode);
}

static void record(const char *text) {
    FILE *file = beside("log", "a");
    if (file == NULL) abort();
    fprintf(file, "%s\n", text);
    fclose(file);
}

/* The status that a test wants of `function`; else whether the runtime is open. */
static int answer(const char *function) {
    char line[NAME], name[NAME];
    int status, found = 0;
    FILE *file = beside("faults", "r");
    if (file != NULL) {
        while (fgets(line, sizeof line, file) != NULL)
            if (sscanf(line, "%255s %d", name, &status) == 2 && strcmp(name, function) == 0) found = status;
        fclose(file);
    }
    record(function);
    return found;
}

static int opened(const char *function) {
    int status = answer(function);
    return status != SUCCESS ? status : state;
}

#ifndef WITHOUT_nrt_init
int nrt_init(int framework, const char *framework_version, const char *fal_version) {
    int status = answer("nrt_init");
    if (status != SUCCESS) return status;
    if (framework != 1 || framework_version[0] != 0 || fal_version[0] != 0) return INVALID;
    state = SUCCESS;
    return SUCCESS;
}
#endif

void nrt_close(void) {
    char text[NAME];
    snprintf(text, sizeof text, "nrt_close models=%d tensors=%d sets=%d infos=%d", models, tensors, sets, infos);
    record(text);
    state = CLOSED;
}

typedef struct {
    uint64_t numbers[4];
    char detail[128], git_hash[64];
} version_t;

int nrt_get_version(version_t *version, size_t size) {
    int status = answer("nrt_get_version");
    version_t mine = {{2, 31, 24, 0}, "mock", ""};
    memset(mine.git_hash, 'f', sizeof mine.git_hash); /* not terminated */
    memcpy(version, &mine, size < sizeof mine ? size : sizeof mine);
    return status;
}

typedef struct {
    uint32_t family, size;
    char arch[16], revision[8];
} instance_t;

int nrt_get_instance_info(instance_t *instance, size_t size) {
    int status = answer("nrt_get_instance_info");
    instance_t mine = {5, 7, "trn2", "r1"};
    memcpy(instance, &mine, size < sizeof mine ? size : sizeof mine);
    return status;
}

#ifdef OLD_NAMES
#define TOTAL nrt_get_total_nc_count
#define VISIBLE nrt_get_visible_nc_count
#else
#define TOTAL nrt_get_total_vnc_count
#define VISIBLE nrt_get_visible_vnc_count
#endif

int TOTAL(uint32_t *count) {
    *count = 64;
    return answer("nrt_get_total_vnc_count");
}

#ifndef VISIBLE_CORES
#define VISIBLE_CORES CORES
#endif

int VISIBLE(uint32_t *count) {
    *count = VISIBLE_CORES;
    return answer("nrt_get_visible_vnc_count");
}

static int parse(model_t *model, const char *text, size_t size) {
    char *copy = strndup(text, size), *place = NULL;
    for (char *line = strtok_r(copy, "\n", &place); line != NULL; line = strtok_r(NULL, "\n", &place)) {
        char word[16], name[NAME];
        unsigned dtype;
        size_t bytes;
        int read = 0;
        step_t *step = &model->step[model->steps];
        if (sscanf(line, "hostile %31s", model->hostile) == 1) continue;
        if (sscanf(line, "%15s %255s %u %zu%n", word, name, &dtype, &bytes, &read) == 4
            && (strcmp(word, "in") == 0 || strcmp(word, "out") == 0) && model->infos < MOST) {
            info_t *info = &model->info[model->infos];
            strncpy(info->name, name, NAME - 1);
            info->usage = strcmp(word, "out") == 0;
            info->size = bytes;
            info->dtype = dtype;
            info->shape = model->shape[model->infos++];
            unsigned dim;
            int more;
            for (char *rest = line + read; info->ndim < 8 && sscanf(rest, " %u%n", &dim, &more) == 1; rest += more)
                info->shape[info->ndim++] = dim;
            continue;
        }
        if (model->steps < MOST && sscanf(line, "add %255s %255s %255s", step->a, step->b, step->out) == 3) {
            step->op = '+';
            model->steps++;
            continue;
        }
        if (model->steps < MOST && sscanf(line, "scale %255s %f %255s", step->a, &step->factor, step->out) == 3) {
            step->op = '*';
            model->steps++;
            continue;
        }
        free(copy);
        return INVALID;
    }
    free(copy);
    return SUCCESS;
}

static int load(const char *bytes, size_t size, int core, int count, model_t **out) {
    if (core < 0 || core >= CORES || count != -1 || size < 1024) return INVALID;
    model_t *model = calloc(1, sizeof *model);
    int status = parse(model, bytes + 1024, size - 1024);
    if (status != SUCCESS) {
        free(model);
        return status;
    }
    models++;
    *out = model;
    return SUCCESS;
}

int nrt_load(const void *bytes, size_t size, int32_t core, int32_t count, model_t **model) {
    int status = opened("nrt_load");
    return status != SUCCESS ? status : load(bytes, size, core, count, model);
}

int nrt_load_collectives(const void *bytes, size_t size, int32_t core, int32_t count, uint32_t rank, uint32_t world,
                         model_t **model) {
    char text[NAME];
    snprintf(text, sizeof text, "rank %u of %u", rank, world);
    record(text);
    int status = opened("nrt_load_collectives");
    return status != SUCCESS ? status : load(bytes, size, core, count, model);
}

int nrt_unload(model_t *model) {
    models--;
    free(model);
    return opened("nrt_unload");
}

int nrt_get_model_tensor_info(model_t *model, infos_t **out) {
    int status = opened("nrt_get_model_tensor_info");
    if (status != SUCCESS) return status;
    if (strcmp(model->hostile, "null") == 0) {
        *out = NULL;
        return SUCCESS;
    }
    infos_t *array = calloc(1, sizeof *array + MOST * sizeof *array->infos);
    array->count = (uint64_t)model->infos;
    memcpy(array->infos, model->info, (size_t)model->infos * sizeof *array->infos);
    info_t *first = &array->infos[0];
    if (strcmp(model->hostile, "count") == 0) array->count = UINT64_MAX;
    if (strcmp(model->hostile, "name") == 0) memset(first->name, 'n', NAME);
    if (strcmp(model->hostile, "bytes") == 0) memset(first->name, 0xFF, 8);
    if (strcmp(model->hostile, "nameless") == 0) first->name[0] = 0;
    if (strcmp(model->hostile, "usage") == 0) first->usage = 7;
    if (strcmp(model->hostile, "size") == 0) first->size = SIZE_MAX;
    if (strcmp(model->hostile, "dimensions") == 0) first->ndim = UINT32_MAX;
    if (strcmp(model->hostile, "shape") == 0) first->shape = NULL;
    if (strcmp(model->hostile, "twice") == 0) array->infos[1] = array->infos[0];
    infos++;
    *out = array;
    return SUCCESS;
}

int nrt_free_model_tensor_info(infos_t *array) {
    infos--;
    free(array);
    return opened("nrt_free_model_tensor_info");
}

int nrt_tensor_allocate(int placement, int core, size_t size, const char *name, tensor_t **out) {
    int status = opened("nrt_tensor_allocate");
    if (status != SUCCESS) return status;
    if ((placement != 0 && placement != 2) || core < 0 || core >= CORES || name == NULL) return INVALID;
    if (size > LIMIT - used) return RESOURCE;
    if (strcmp(name, "null") == 0) {
        *out = NULL;
        return SUCCESS;
    }
    tensor_t *tensor = calloc(1, sizeof *tensor);
    tensor->data = calloc(1, size);
    tensor->size = strcmp(name, "short") == 0 ? size - 1 : size;
    used += size;
    tensors++;
    *out = tensor;
    return SUCCESS;
}

int nrt_tensor_allocate_slice(const tensor_t *source, size_t offset, size_t size, const char *name, tensor_t **out) {
    int status = opened("nrt_tensor_allocate_slice");
    if (status != SUCCESS) return status;
    if (name == NULL || size > source->size || offset > source->size - size) return INVALID;
    tensor_t *tensor = calloc(1, sizeof *tensor);
    tensor->data = source->data + offset;
    tensor->size = size;
    tensor->source = (tensor_t *)source;
    tensors++;
    *out = tensor;
    return SUCCESS;
}

/* Only marks the tensor: a later use is then seen, not undefined. */
void nrt_tensor_free(tensor_t **tensor) {
    record((*tensor)->freed ? "freed twice" : "nrt_tensor_free");
    if ((*tensor)->source == NULL) {
        used -= (*tensor)->size;
        free((*tensor)->data);
    } else if ((*tensor)->source->freed) {
        record("freed after its source");
    }
    tensors--;
    (*tensor)->freed = 1;
    *tensor = NULL;
}

int nrt_tensor_read(const tensor_t *tensor, void *to, size_t offset, size_t size) {
    int status = opened("nrt_tensor_read");
    if (status != SUCCESS) return status;
    if (size > tensor->size || offset > tensor->size - size) return INVALID;
    memcpy(to, tensor->data + offset, size);
    return SUCCESS;
}

int nrt_tensor_write(tensor_t *tensor, const void *from, size_t offset, size_t size) {
    int status = opened("nrt_tensor_write");
    if (status != SUCCESS) return status;
    if (size > tensor->size || offset > tensor->size - size) return INVALID;
    memcpy(tensor->data + offset, from, size);
    return SUCCESS;
}

size_t nrt_tensor_get_size(const tensor_t *tensor) { return tensor->size; }

int nrt_allocate_tensor_set(set_t **out) {
    int status = opened("nrt_allocate_tensor_set");
    if (status != SUCCESS) return status;
    *out = calloc(1, sizeof **out);
    sets++;
    return SUCCESS;
}

void nrt_destroy_tensor_set(set_t **set) {
    record("nrt_destroy_tensor_set");
    /* AWS's header wants every tensor that was ever added to be valid until here. */
    for (int i = 0; i < (*set)->added; i++)
        if ((*set)->ever[i]->freed) record("destroyed after its tensor");
    sets--;
    free(*set);
    *set = NULL;
}

int nrt_add_tensor_to_tensor_set(set_t *set, const char *name, tensor_t *tensor) {
    int status = opened("nrt_add_tensor_to_tensor_set");
    if (status != SUCCESS) return status;
    int at = 0;
    while (at < set->count && strcmp(set->name[at], name) != 0) at++;
    if (at == MOST || set->added == 4 * MOST) return RESOURCE;
    set->ever[set->added++] = tensor;
    if (at == set->count) set->count++;
    strncpy(set->name[at], name, NAME - 1);
    set->tensor[at] = tensor;
    return SUCCESS;
}

static tensor_t *find(const set_t *set, const char *name) {
    for (int i = 0; i < set->count; i++)
        if (strcmp(set->name[i], name) == 0) return set->tensor[i];
    return NULL;
}

static int run(const model_t *model, const set_t *in, set_t *out) {
    for (int i = 0; i < model->infos; i++) {
        const info_t *info = &model->info[i];
        const tensor_t *tensor = find(info->usage == 0 ? in : out, info->name);
        if (tensor == NULL || tensor->size != info->size) return BAD_INPUT;
    }
    for (int i = 0; i < model->steps; i++) {
        const step_t *step = &model->step[i];
        const tensor_t *a = find(in, step->a), *b = step->op == '+' ? find(in, step->b) : a;
        tensor_t *to = find(out, step->out);
        if (a == NULL || b == NULL || to == NULL || a->size != to->size || b->size != to->size) return BAD_INPUT;
        for (size_t at = 0; at + 4 <= to->size; at += 4) {
            float x, y;
            memcpy(&x, a->data + at, 4);
            memcpy(&y, b->data + at, 4);
            x = step->op == '+' ? x + y : x * step->factor;
            memcpy(to->data + at, &x, 4);
        }
    }
    return SUCCESS;
}

#ifndef WITHOUT_nrt_execute
int nrt_execute(model_t *model, const set_t *in, set_t *out) {
    int status = opened("nrt_execute");
    return status != SUCCESS ? status : run(model, in, out);
}
#endif

int nrt_execute_repeat(model_t *model, const set_t *in, set_t *out, int times) {
    int status = opened("nrt_execute_repeat");
    for (int i = 0; i < times && status == SUCCESS; i++) status = run(model, in, out);
    return status;
}

#ifndef OLD_NAMES
typedef struct {
    size_t used, limit;
} memory_t;

int nrt_get_vnc_memory_stats(uint32_t core, memory_t *memory, size_t size, size_t *written) {
    int status = opened("nrt_get_vnc_memory_stats");
    if (status != SUCCESS) return status;
    if (core >= CORES) return INVALID;
    memory_t mine = {used, LIMIT};
    *written = size < sizeof mine ? size : sizeof mine;
    memcpy(memory, &mine, *written);
    return SUCCESS;
}
#endif
