// Objects and their boxes, of a detector's two outputs: what `decoding` in contract.json says, in double precision.
// Plain C++17, nothing but the standard library; what depends on the network comes from qtools_contract.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace qtools {

// Sides as shares of a picture; of a Found, of the one behind resize and crop, from which `uncut` leads back.
struct Box {
    double left = 0;
    double top = 0;
    double right = 0;
    double bottom = 0;
};

// A grid of cells, each with the shapes of its ratios.
struct Map {
    int rows = 0;
    int columns = 0;
    std::vector<double> ratios;
};

// The boxes that answers start from.
struct Anchors {
    std::vector<Map> maps;
    double lowest = 0;
    double highest = 0;
};

// How two outputs become objects; contract.schema.json says it step by step.
struct Decoding {
    std::optional<Anchors> anchors;
    std::array<double, 2> variances{};
    int background = 0;
    std::optional<double> overlap;
    double least = 0;
    std::size_t candidates = 0;
    std::size_t most = 0;
};

// An object: index of its class, the background not counted, its label ("" where there is none), 0 to 1, its box.
struct Found {
    int index = 0;
    std::string label;
    double score = 0;
    Box box;
};

namespace detail {

// A pair of a place and a class.
struct Sure {
    std::size_t place;
    int index;
    double score;
};

struct Shape {
    double width;
    double height;
};

inline double area(const Box& box) {
    return std::max(0.0, box.right - box.left) * std::max(0.0, box.bottom - box.top);
}

inline std::vector<Shape> shapes(const std::vector<double>& ratios, double own, double next) {
    const double between = std::sqrt(own * next);
    std::vector<Shape> found{ {own, own}, {between, between} };
    for (double ratio : ratios) {
        const double longer = own * std::sqrt(ratio), shorter = own / std::sqrt(ratio);
        found.push_back({longer, shorter});
        found.push_back({shorter, longer});
    }
    return found;
}

// Pairs that are sure enough, the surest first; of equal ones the first place, then the first class.
inline std::vector<Sure> pairs(const std::vector<float>& logits, std::size_t places, const Decoding& said) {
    const std::size_t classes = logits.size() / places;
    const std::size_t nothing = said.background < 0 ? classes - 1 : static_cast<std::size_t>(said.background);
    std::vector<Sure> found;
    std::vector<double> powers(classes);
    for (std::size_t place = 0; place < places; ++place) {
        const float* row = logits.data() + place * classes;
        const double largest = *std::max_element(row, row + classes);
        double total = 0;
        for (std::size_t at = 0; at < classes; ++at) {
            powers[at] = std::exp(row[at] - largest);
            total += powers[at];
        }
        for (std::size_t at = 0; at < classes; ++at) {
            const double score = static_cast<float>(powers[at] / total);
            if (at == nothing || !(score > said.least)) continue;
            found.push_back({place, static_cast<int>(at) - (at > nothing), score});
        }
    }
    std::stable_sort(found.begin(), found.end(), [](const Sure& a, const Sure& b) { return a.score > b.score; });
    if (found.size() > said.candidates) found.resize(said.candidates);
    return found;
}

}  // namespace detail

// Intersection over union; 0 where both are empty.
inline double overlap(const Box& one, const Box& other) {
    const double width = std::max(0.0, std::min(one.right, other.right) - std::max(one.left, other.left));
    const double height = std::max(0.0, std::min(one.bottom, other.bottom) - std::max(one.top, other.top));
    const double shared = width * height;
    const double either = detail::area(one) + detail::area(other) - shared;
    return either > 0 ? shared / either : 0.0;
}

// Middle x, middle y, width and height of each place's anchor, four numbers a place.
inline std::vector<double> starts(const Anchors& anchors) {
    std::vector<double> found;
    const std::size_t count = anchors.maps.size();
    const double steps = count > 1 ? static_cast<double>(count - 1) : 1.0;
    const auto scale = [&](std::size_t map) {
        return anchors.lowest + (anchors.highest - anchors.lowest) * static_cast<double>(map) / steps;
    };
    for (std::size_t map = 0; map < count; ++map) {
        const Map& cells = anchors.maps[map];
        const double next = map + 1 < count ? scale(map + 1) : std::max(1.0, scale(map));
        const std::vector<detail::Shape> shapes = detail::shapes(cells.ratios, scale(map), next);
        for (int row = 0; row < cells.rows; ++row) {
            for (int column = 0; column < cells.columns; ++column) {
                for (const detail::Shape& shape : shapes) {
                    const double x = (column + 0.5) / cells.columns, y = (row + 0.5) / cells.rows;
                    found.insert(found.end(), {x, y, shape.width, shape.height});
                }
            }
        }
    }
    return found;
}

// The box of every place.
inline std::vector<Box> corners(const std::vector<float>& answers, const Decoding& said) {
    const std::vector<double> start = said.anchors ? starts(*said.anchors) : std::vector<double>();
    const double most = std::log(1000.0);
    std::vector<Box> found;
    for (std::size_t at = 0; at + 4 <= answers.size(); at += 4) {
        double x = answers[at], y = answers[at + 1], width = answers[at + 2], height = answers[at + 3];
        if (said.anchors) {
            const double wide = start.at(at + 2), high = start.at(at + 3);
            x = start[at] + x * wide * said.variances[0];
            y = start[at + 1] + y * high * said.variances[0];
            width = wide * std::exp(std::min(width * said.variances[1], most));
            height = high * std::exp(std::min(height * said.variances[1], most));
        }
        found.push_back({x - width / 2, y - height / 2, x + width / 2, y + height / 2});
    }
    return found;
}

// What is in a picture, the surest first, of the real numbers of both outputs: a row of classes and four numbers a place.
inline std::vector<Found> detect(const std::vector<float>& logits, const std::vector<float>& answers,
                                 const Decoding& said, const std::vector<std::string>& labels) {
    const std::vector<Box> boxes = corners(answers, said);
    std::vector<Found> kept;
    if (boxes.empty()) return kept;
    for (const detail::Sure& pair : detail::pairs(logits, boxes.size(), said)) {
        if (kept.size() == said.most) break;
        const Box& box = boxes[pair.place];
        const bool covered = said.overlap && std::any_of(kept.begin(), kept.end(), [&](const Found& other) {
            return other.index == pair.index && overlap(other.box, box) > *said.overlap;
        });
        if (covered) continue;
        const std::size_t index = static_cast<std::size_t>(pair.index);
        kept.push_back({pair.index, index < labels.size() ? labels[index] : "", pair.score, box});
    }
    return kept;
}

}  // namespace qtools
