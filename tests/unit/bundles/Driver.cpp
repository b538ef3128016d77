// Reads what test_cpp.py lays down as `cases`, and prints JSON: the sides of a box led back, a line per picture, then
// the objects of every drawn detector, a line each.
#include <fstream>
#include <iomanip>
#include <iostream>

#include "qtools_vision.hpp"

namespace {

template <class Number>
Number next(std::istream& cases) {
    Number found{};
    if (!(cases >> found)) throw std::runtime_error("the cases end early");
    return found;
}

template <class Number>
std::vector<Number> row(std::istream& cases, std::size_t count) {
    std::vector<Number> found;
    while (found.size() < count) found.push_back(next<Number>(cases));
    return found;
}

qtools::Decoding decoding(std::istream& cases) {
    qtools::Decoding said;
    const int maps = next<int>(cases);
    if (maps >= 0) {
        qtools::Anchors anchors;
        anchors.lowest = next<double>(cases);
        anchors.highest = next<double>(cases);
        for (int map = 0; map < maps; ++map) {
            const int rows = next<int>(cases), columns = next<int>(cases);
            anchors.maps.push_back({rows, columns, row<double>(cases, next<std::size_t>(cases))});
        }
        said.anchors = anchors;
    }
    said.variances = {next<double>(cases), next<double>(cases)};
    said.background = next<int>(cases);
    const double overlap = next<double>(cases);
    if (overlap >= 0) said.overlap = overlap;
    said.least = next<double>(cases);
    said.candidates = next<std::size_t>(cases);
    said.most = next<std::size_t>(cases);
    return said;
}

void print(const qtools::Box& box) {
    std::cout << "[" << box.left << "," << box.top << "," << box.right << "," << box.bottom << "]";
}

}  // namespace

int main() {
    std::ifstream cases("cases");
    std::cout << std::setprecision(17);
    std::vector<std::pair<int, int>> pictures(next<std::size_t>(cases));
    for (auto& [height, width] : pictures) cases >> height >> width;
    qtools::Box box;
    cases >> box.left >> box.top >> box.right >> box.bottom;
    for (const auto& [height, width] : pictures) {
        print(qtools::uncut(box, height, width));
        std::cout << "\n";
    }
    for (int left = next<int>(cases); left > 0; --left) {
        const qtools::Decoding said = decoding(cases);
        const auto places = next<std::size_t>(cases), classes = next<std::size_t>(cases);
        const auto logits = row<float>(cases, places * classes), answers = row<float>(cases, 4 * places);
        const char* between = "[";
        for (const qtools::Found& each : qtools::detect(logits, answers, said, {"one", "two"})) {
            std::cout << between << "[" << each.index << ",\"" << each.label << "\"," << each.score << ",";
            print(each.box);
            std::cout << "]";
            between = ",";
        }
        std::cout << (*between == '[' ? "[]" : "]") << "\n";
    }
}
