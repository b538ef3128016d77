// Feeds a network exactly as it was audited. Plain C++17, nothing but the standard library; everything that
// depends on the network comes from qtools_contract.hpp.
//
// A picture is RGB, upright, 8 bits per channel. Weights are computed in double precision: compile without -ffast-math,
// and on Arm with -ffp-contract=off, so that a compiler does not fuse a product and a sum.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "qtools_contract.hpp"
#include "qtools_detect.hpp"

namespace qtools {

using contract::Crop;
using contract::Filter;
using contract::Layout;

struct Picture {
    int height = 0;
    int width = 0;
    std::vector<std::uint8_t> rgb;  // rows of interleaved channels
};

struct Top {
    int index = 0;
    std::string label;
    float probability = 0;
};

namespace detail {

constexpr int precision = 22;  // bits behind the binary point: 32, less 8 of the pixel, less 2 for sums beyond it
constexpr double pi = 3.14159265358979323846;

inline double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= pi;
    return std::sin(x) / x;
}

inline double weigh(Filter filter, double x) {
    switch (filter) {
        case Filter::box:
            return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
        case Filter::bilinear:
            x = std::fabs(x);
            return x < 1.0 ? 1.0 - x : 0.0;
        case Filter::hamming:
            x = std::fabs(x);
            if (x == 0.0) return 1.0;
            if (x >= 1.0) return 0.0;
            x *= pi;
            return std::sin(x) / x * (0.54f + 0.46f * std::cos(x));
        case Filter::bicubic: {
            constexpr double a = -0.5;
            x = std::fabs(x);
            if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
            return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
        }
        case Filter::lanczos:
            return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
        case Filter::nearest:
            break;
    }
    throw std::logic_error("nearest has no weights");
}

inline double support(Filter filter) {
    switch (filter) {
        case Filter::box:
            return 0.5;
        case Filter::bicubic:
            return 2.0;
        case Filter::lanczos:
            return 3.0;
        default:
            return 1.0;
    }
}

// For one pixel of the result, the first pixel that it reads, and the integer weights from there on.
struct Reads {
    int first = 0;
    std::vector<std::int32_t> weights;
};

inline std::vector<Reads> reads(int source, int goal, Filter filter) {
    const double scale = static_cast<double>(source) / goal;
    const double wide = std::max(scale, 1.0);
    const double reach = support(filter) * wide;
    const double inverse = 1.0 / wide;
    std::vector<Reads> found(static_cast<std::size_t>(goal));
    std::vector<double> real;
    for (int x = 0; x < goal; ++x) {
        const double center = (x + 0.5) * scale;
        const int first = std::max(static_cast<int>(center - reach + 0.5), 0);
        const int last = std::min(static_cast<int>(center + reach + 0.5), source);
        real.clear();
        double total = 0.0;
        for (int k = first; k < last; ++k) {
            real.push_back(weigh(filter, (k - center + 0.5) * inverse));
            total += real.back();
        }
        Reads& each = found[static_cast<std::size_t>(x)];
        each.first = first;
        for (double weight : real) {
            if (total != 0.0) weight /= total;
            weight *= 1 << precision;
            each.weights.push_back(static_cast<std::int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5));
        }
    }
    return found;
}

// One side of a picture in another length. `step` is the distance of two neighbours along it, `lines` the number of
// lines, `stride` from one line to the next, each in bytes.
struct Side {
    int length;
    std::size_t step;
    int lines;
    std::size_t stride;
};

inline void along(const std::uint8_t* from, Side source, std::uint8_t* to, Side goal, Filter filter) {
    const std::vector<Reads> table = reads(source.length, goal.length, filter);
    for (int line = 0; line < source.lines; ++line) {
        const std::uint8_t* in = from + static_cast<std::size_t>(line) * source.stride;
        std::uint8_t* out = to + static_cast<std::size_t>(line) * goal.stride;
        for (const Reads& each : table) {
            for (std::size_t channel = 0; channel < 3; ++channel) {
                std::int32_t sum = 1 << (precision - 1);
                const std::uint8_t* pixel = in + static_cast<std::size_t>(each.first) * source.step + channel;
                for (std::int32_t weight : each.weights) {
                    sum += *pixel * weight;
                    pixel += source.step;
                }
                out[channel] = static_cast<std::uint8_t>(std::clamp(sum >> precision, 0, 255));
            }
            out += goal.step;
        }
    }
}

inline Picture blank(int height, int width) {
    return {height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(height) * width * 3)};
}

inline Picture with_width(const Picture& picture, int width, Filter filter) {
    if (picture.width == width) return picture;
    Picture result = blank(picture.height, width);
    const std::size_t before = static_cast<std::size_t>(picture.width) * 3, after = static_cast<std::size_t>(width) * 3;
    along(picture.rgb.data(), {picture.width, 3, picture.height, before}, result.rgb.data(),
          {width, 3, picture.height, after}, filter);
    return result;
}

inline Picture with_height(const Picture& picture, int height, Filter filter) {
    if (picture.height == height) return picture;
    Picture result = blank(height, picture.width);
    const std::size_t row = static_cast<std::size_t>(picture.width) * 3;
    along(picture.rgb.data(), {picture.height, row, picture.width, 3}, result.rgb.data(),
          {height, row, picture.width, 3}, filter);
    return result;
}

inline std::vector<int> nearest(int source, int goal) {
    const double scale = static_cast<double>(source) / goal;
    double at = scale * 0.5;
    std::vector<int> found;
    for (int x = 0; x < goal; ++x, at += scale) {  // added one after the other: the sum rounds as it goes
        found.push_back(std::min(static_cast<int>(at), source - 1));
    }
    return found;
}

inline int half_to_even(double x) { return static_cast<int>(std::nearbyint(x)); }  // in the usual rounding mode

// Where the middle of `goal` pixels begins among `have`; below 0 where there are fewer.
inline int start(int have, int goal) {
    return have < goal ? -((goal - have) / 2) : half_to_even((have - goal) / 2.0);
}

}  // namespace detail

// A picture in another size, one side after the other, rounded to bytes in between.
inline Picture resize(const Picture& picture, int height, int width, Filter filter) {
    if (filter == Filter::nearest) {
        const std::vector<int> rows = detail::nearest(picture.height, height);
        const std::vector<int> columns = detail::nearest(picture.width, width);
        Picture result = detail::blank(height, width);
        std::uint8_t* out = result.rgb.data();
        for (int y : rows) {
            for (int x : columns) {
                const std::size_t at = (static_cast<std::size_t>(y) * picture.width + x) * 3;
                out = std::copy_n(picture.rgb.data() + at, 3, out);
            }
        }
        return result;
    }
    const int lost = picture.height - height;
    if (lost > 0 && lost > 2 * (picture.width - width)) {  // what shrinks most goes first
        return detail::with_width(detail::with_height(picture, height, filter), width, filter);
    }
    return detail::with_height(detail::with_width(picture, width, filter), height, filter);
}

// Height and width of a picture before the crop.
inline std::pair<int, int> goal_size(int height, int width) {
    const int goal_h = static_cast<int>(std::floor(contract::height / contract::keep));
    const int goal_w = static_cast<int>(std::floor(contract::width / contract::keep));
    if (contract::crop == Crop::squash) return {goal_h, goal_w};
    if (contract::crop == Crop::center && goal_h == goal_w) {
        const auto [small, large] = std::minmax(height, width);
        const int grown = static_cast<int>(static_cast<std::int64_t>(goal_h) * large / small);
        return height <= width ? std::pair(goal_h, grown) : std::pair(grown, goal_h);
    }
    const double tall = static_cast<double>(height) / goal_h, wide = static_cast<double>(width) / goal_w;
    const double ratio = contract::crop == Crop::border ? std::max(tall, wide) : std::min(tall, wide);
    return {std::max(1, detail::half_to_even(height / ratio)), std::max(1, detail::half_to_even(width / ratio))};
}

// A picture as the input tensor.
inline std::vector<contract::Element> prepare(const Picture& picture) {
    const auto [height, width] = goal_size(picture.height, picture.width);
    const Picture resized = resize(picture, height, width, contract::filter);
    const int top = detail::start(height, contract::height), left = detail::start(width, contract::width);
    constexpr std::size_t plane = static_cast<std::size_t>(contract::height) * contract::width;
    std::vector<contract::Element> tensor(3 * plane);
    for (int y = 0; y < contract::height; ++y) {
        for (int x = 0; x < contract::width; ++x) {
            const int from_y = y + top, from_x = x + left;
            const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
            const std::uint8_t* pixel =
                inside ? resized.rgb.data() + (static_cast<std::size_t>(from_y) * width + from_x) * 3 : contract::fill;
            const std::size_t place = static_cast<std::size_t>(y) * contract::width + x;
            for (std::size_t channel = 0; channel < 3; ++channel) {
                const std::uint8_t byte = pixel[contract::bgr ? 2 - channel : channel];
                const std::size_t at =
                    contract::layout == Layout::nhwc ? place * 3 + channel : channel * plane + place;
                tensor[at] = contract::table[channel][byte];
            }
        }
    }
    return tensor;
}

// A box of the picture behind resize and crop, as shares of a whole picture of these sides; it may reach beyond that.
inline Box uncut(const Box& box, int height, int width) {
    const auto [tall, broad] = goal_size(height, width);
    const int top = detail::start(tall, contract::height), left = detail::start(broad, contract::width);
    return {(box.left * contract::width + left) / broad, (box.top * contract::height + top) / tall,
            (box.right * contract::width + left) / broad, (box.bottom * contract::height + top) / tall};
}

// What the numbers of any output are worth.
template <class Code>
std::vector<float> worth(const std::vector<Code>& codes, contract::Grid grid) {
    std::vector<float> found;
    for (Code code : codes) {
        found.push_back(grid.coded ? static_cast<float>(static_cast<int>(code) - grid.zero_point) * grid.scale
                                   : static_cast<float>(code));
    }
    return found;
}

// What the numbers of the output are worth.
inline std::vector<float> real_numbers(const std::vector<contract::Answer>& output) {
    return worth(output, contract::grid);
}

// The elements of a tensor that lies there as bytes.
template <class Element>
std::vector<Element> elements(const std::vector<std::uint8_t>& bytes) {
    std::vector<Element> found(bytes.size() / sizeof(Element));
    std::memcpy(found.data(), bytes.data(), found.size() * sizeof(Element));
    return found;
}

// The likeliest classes.
inline std::vector<Top> likeliest(const std::vector<contract::Answer>& output, std::size_t count = 5) {
    std::vector<float> numbers = real_numbers(output);
    if (contract::logits && !numbers.empty()) {
        const float largest = *std::max_element(numbers.begin(), numbers.end());
        for (float& number : numbers) number = std::exp(number - largest);
        const float total = std::accumulate(numbers.begin(), numbers.end(), 0.0f);
        for (float& number : numbers) number /= total;
    }
    std::vector<int> order(numbers.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return numbers[static_cast<std::size_t>(a)] > numbers[static_cast<std::size_t>(b)];
    });
    std::vector<Top> found;
    for (int index : order) {
        if (found.size() == count) break;
        const char* label = index < contract::labelled ? contract::labels[index] : "";
        found.push_back({index, label, numbers[static_cast<std::size_t>(index)]});
    }
    return found;
}

#ifdef QTOOLS_DETECTOR
// What is in a picture, the surest first, of the elements of both outputs.
inline std::vector<Found> objects(const std::vector<contract::Answer>& output,
                                  const std::vector<contract::Side>& boxes) {
    const std::vector<std::string> labels(contract::labels, contract::labels + contract::labelled);
    return detect(real_numbers(output), worth(boxes, contract::boxes_grid), contract::decoding, labels);
}
#endif

}  // namespace qtools
