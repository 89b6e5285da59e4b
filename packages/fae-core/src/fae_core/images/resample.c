/* The resize of 8-bit RGB images that Pillow defines, with the same integers: bit for bit its result, in less time.
 *
 * Two passes of fixed-point sums, first along rows, then along columns, each rounded to 8 bits. Weights are computed in
 * double precision and rounded to 22 bits after the point. Only the part that is asked for is computed. The caller
 * (resample.py) gives sizes of 1 or more and a part within the whole.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BITS 22 /* after the point */
#define SPAN 32 /* values of a row that are summed together along columns */

/* Vectors of gcc and clang. A pixel has four places, as in Pillow; two rows go together. */
typedef int32_t pixel __attribute__((vector_size(16), may_alias));
typedef int32_t pair __attribute__((vector_size(32)));

typedef struct {
    int first, count; /* samples that a result is a sum of */
    const int32_t *weights;
} Taps;

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static uint8_t to_byte(int32_t sum) {
    int32_t value = sum >> BITS;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* The taps of results `from` to `from + count` of `samples` samples that are resized to `whole`. NULL: no memory. */
static Taps *make_taps(int samples, int whole, int from, int count, int smooth) {
    double (*filter)(double) = smooth ? bicubic : box;
    double scale = (double)samples / whole, widening = scale < 1.0 ? 1.0 : scale;
    double support = (smooth ? 2.0 : 0.5) * widening, inverse = 1.0 / widening;
    int most = (int)ceil(support) * 2 + 1;
    size_t places = (size_t)count * most;
    Taps *taps = malloc(count * sizeof(Taps) + places * sizeof(int32_t));
    if (!taps) return NULL;
    int32_t *weights = (int32_t *)(taps + count);
    double *exact = malloc(most * sizeof(double));
    if (!exact) { free(taps); return NULL; }
    for (int i = 0; i < count; i++, weights += most) {
        double center = (from + i + 0.5) * scale, total = 0.0;
        int first = (int)(center - support + 0.5), last = (int)(center + support + 0.5);
        if (first < 0) first = 0;
        if (last > samples) last = samples;
        for (int k = 0; k < last - first; k++) {
            exact[k] = filter((k + first - center + 0.5) * inverse);
            total += exact[k];
        }
        for (int k = 0; k < last - first; k++) {
            double weight = (total != 0.0 ? exact[k] / total : exact[k]) * (1 << BITS);
            weights[k] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        taps[i] = (Taps){first, last - first, weights};
    }
    free(exact);
    return taps;
}

/* `count` sums as bytes. */
static void to_bytes(const int32_t *sums, size_t count, uint8_t *to) {
    for (size_t i = 0; i < count; i++) to[i] = to_byte(sums[i]);
}

/* Four bytes as four places. */
static inline pixel unpacked(const uint8_t *from) {
    int32_t four;
    memcpy(&four, from, 4);
    return ((pixel){four, four, four, four} >> (pixel){0, 8, 16, 24}) & 255;
}

/* Two rows (width, 4), resized along their length to (count, 4). `spread` has room for `width` pairs, `sums` for two
 * rows of results. */
static void along_rows(const uint8_t *from, const uint8_t *next, int width, const Taps *taps, int count, pair *spread,
                       pixel *sums, uint8_t *to) {
    for (int x = 0; x < width; x++) {
        pixel *both = (pixel *)(spread + x);
        both[0] = unpacked(from + 4 * x);
        both[1] = unpacked(next + 4 * x);
    }
    for (int i = 0; i < count; i++) {
        pair sum = (pair){0} + (1 << (BITS - 1));
        const pair *at = spread + taps[i].first;
        for (int k = 0; k < taps[i].count; k++) sum += at[k] * taps[i].weights[k];
        memcpy(sums + i, &sum, 16);
        memcpy(sums + count + i, (char *)&sum + 16, 16);
    }
    to_bytes((const int32_t *)sums, (size_t)count * 8, to);
}

/* `span` values of one row: sums along the columns of rows that are `stride` bytes apart. */
static inline void along_columns(const uint8_t *from, size_t stride, Taps taps, int span, uint8_t *to) {
    int32_t sum[SPAN];
    for (int j = 0; j < span; j++) sum[j] = 1 << (BITS - 1);
    for (int k = 0; k < taps.count; k++)
        for (int j = 0; j < span; j++) sum[j] += taps.weights[k] * from[k * stride + j];
    for (int j = 0; j < span; j++) to[j] = to_byte(sum[j]);
}

/* The part of `width` x `height` at (left, top) of an image (from_height, from_width, 4) that is resized to
 * whole_width x whole_height, bicubically (smooth) or with a box: (height, width, 4). Returns 0, or 1 without memory. */
int fae_resize(const uint8_t *from, int from_width, int from_height, int whole_width, int whole_height, int left,
               int top, int width, int height, int smooth, uint8_t *to) {
    int status = 1;
    size_t row = (size_t)from_width * 4, stride = (size_t)width * 4;
    Taps *across = make_taps(from_width, whole_width, left, width, smooth);
    Taps *down = make_taps(from_height, whole_height, top, height, smooth);
    pair *spread = aligned_alloc(32, (size_t)from_width * 32 + stride * 8);
    uint8_t *between = NULL;
    if (!across || !down || !spread) goto end;
    int first = down[0].first, last = down[height - 1].first + down[height - 1].count;
    between = malloc((size_t)(last - first + 1) * stride); /* one row more: rows come in pairs */
    if (!between) goto end;
    for (int y = first; y < last; y += 2) {
        const uint8_t *one = from + y * row;
        along_rows(one, y + 1 < last ? one + row : one, from_width, across, width, spread,
                   (pixel *)(spread + from_width), between + (y - first) * stride);
    }
    for (int y = 0; y < height; y++, to += stride) {
        const uint8_t *rows = between + (down[y].first - first) * stride;
        size_t x = 0;
        for (; x + SPAN <= stride; x += SPAN) along_columns(rows + x, stride, down[y], SPAN, to + x);
        along_columns(rows + x, stride, down[y], (int)(stride - x), to + x);
    }
    status = 0;
end:
    free(across), free(down), free(spread), free(between);
    return status;
}

/* Pixels (count, 4) of 8 bits as three planes of fp32 in [0, 1]; the fourth value is not used. */
void fae_planes(const uint8_t *from, size_t count, float *to) {
    for (int c = 0; c < 3; c++)
        for (size_t i = 0; i < count; i++) to[c * count + i] = (float)from[4 * i + c] / 255.0f;
}
