// All between a forward's scores and the next input: penalties, softmax, the draw, the embedding.
#define THREADS 1024
#define RECENT 16
#define ALL 0xffffffffu

// A block has a row, a thread a run of codes that follow each other.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
draw_codes(const float* raw, const long long* min_codes, const long long* end_at,
           const long long* greedy, const long long* window, const float* temperature,
           const float* penalty, const double* draws, const long long* step_at,
           const long long* column_at, const unsigned short* table, float* scores,
           long long* codes, long long* recent, unsigned short* feed, int size, int end_code,
           int stride, int width, double forced) {
    __shared__ float z[8 * THREADS];
    __shared__ float peaks[32];
    __shared__ int places[32];
    __shared__ double sums[32];
    __shared__ int chosen;
    int row = blockIdx.x, me = threadIdx.x, lane = me & 31, warp = me >> 5;
    long long step = step_at[0], column = column_at[0], at = (long long)row * size;
    float heat = temperature[row];
    for (int i = me; i < size; i += THREADS) {
        float value = raw[at + i];
        if (i == end_code && end_at[row] == step) value = (float)forced;
        z[i] = value / heat;
    }
    __syncthreads();
    if (warp == 0) {
        long long code = lane < RECENT ? recent[row * RECENT + lane] : -1;
        bool counts = code >= 0 && RECENT - lane <= window[row];
        int times = 0;
        for (int i = 0; i < RECENT; ++i) {
            long long other = __shfl_sync(ALL, code, i);
            times += __shfl_sync(ALL, (int)counts, i) && other == code;
        }
        float seen = counts ? z[code] : 0.f, factor = powf(penalty[row], (float)times);
        __syncwarp();
        if (counts) z[code] = seen < 0.f ? seen * factor : seen / factor;
        __syncwarp();
        if (lane == 0 && step < min_codes[row]) z[end_code] = __int_as_float(0xff800000);
    }
    __syncthreads();
    int run = (size + THREADS - 1) / THREADS, first = me * run, last = min(first + run, size);
    float peak = __int_as_float(0xff800000);
    int place = size - 1;
    for (int i = first; i < last; ++i) {
        if (z[i] > peak) { peak = z[i]; place = i; }
    }
    for (int d = 16; d > 0; d >>= 1) {
        float other = __shfl_xor_sync(ALL, peak, d);
        int where = __shfl_xor_sync(ALL, place, d);
        if (other > peak || (other == peak && where < place)) { peak = other; place = where; }
    }
    if (lane == 0) { peaks[warp] = peak; places[warp] = place; }
    __syncthreads();
    peak = peaks[lane];
    place = places[lane];
    for (int d = 16; d > 0; d >>= 1) {
        float other = __shfl_xor_sync(ALL, peak, d);
        int where = __shfl_xor_sync(ALL, place, d);
        if (other > peak || (other == peak && where < place)) { peak = other; place = where; }
    }
    for (int i = me; i < size; i += THREADS) scores[at + i] = z[i];
    __syncthreads();
    float total = 0.f;
    for (int i = first; i < last; ++i) {
        z[i] = expf(z[i] - peak);
        total += z[i];
    }
    for (int d = 16; d > 0; d >>= 1) total += __shfl_xor_sync(ALL, total, d);
    __syncthreads();
    if (lane == 0) peaks[warp] = total;
    __syncthreads();
    total = peaks[lane];
    for (int d = 16; d > 0; d >>= 1) total += __shfl_xor_sync(ALL, total, d);
    double own = 0.;
    for (int i = first; i < last; ++i) {
        z[i] = z[i] / total;
        own += z[i];
    }
    double until = own;
    for (int d = 1; d < 32; d <<= 1) {
        double before = __shfl_up_sync(ALL, until, d);
        if (lane >= d) until += before;
    }
    if (lane == 31) sums[warp] = until;
    if (me == 0) chosen = size - 1;
    __syncthreads();
    double before = 0., all = 0.;
    for (int i = 0; i < 32; ++i) {
        if (i == warp) before = all;
        all += sums[i];
    }
    // The sum before a thread is the one behind its neighbour, to the last bit.
    double previous = __shfl_up_sync(ALL, until, 1);
    double begin = lane ? before + previous : before, end = before + until;
    double aim = draws[column * stride + row] * all;
    if (begin <= aim && aim < end) {
        int found = last - 1;
        double sum = begin;
        for (int i = first; i < last; ++i) {
            sum += z[i];
            if (sum > aim) { found = i; break; }
        }
        chosen = found;
    }
    __syncthreads();
    int code = greedy[row] > 0 ? place : chosen;
    if (me == 0) codes[column * stride + row] = code;
    if (warp == 0) {
        long long moved = lane + 1 < RECENT ? recent[row * RECENT + lane + 1] : code;
        __syncwarp();
        if (lane < RECENT) recent[row * RECENT + lane] = moved;
    }
    for (int i = me; i < width; i += THREADS)
        feed[(long long)row * width + i] = table[(long long)code * width + i];
}
