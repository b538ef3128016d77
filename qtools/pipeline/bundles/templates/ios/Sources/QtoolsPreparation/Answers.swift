// From the output to answers: what codes are worth, softmax, the likeliest classes.

#if canImport(Darwin)
import Darwin
#elseif canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// One of the likeliest classes; `label` is empty where the output has none.
public struct Top: Equatable, Sendable {
    public let index: Int
    public let label: String
    public let probability: Double
}

/// What the numbers of the output are worth.
public func realNumbers(_ output: [Float], _ contract: Contract) -> [Float] {
    return worth(output, contract.output)
}

/// The same of any output, by what the contract says of it.
public func worth(_ output: [Float], _ said: Output) -> [Float] {
    if let scale = said.scale, let zero = said.zeroPoint {
        var found: [Float] = []
        for code in output {
            found.append((code - Float(zero)) * Float(scale))
        }
        return found
    }
    return output
}

/// The same as shares of 1.
public func probabilities(_ numbers: [Float], _ contract: Contract) -> [Double] {
    var shares: [Double] = []
    if numbers.count == 0 { return shares }
    var largest: Float = numbers[0]
    for number in numbers {
        largest = max(largest, number)
    }
    let logits = contract.output.meaning == .logits
    var total: Double = 0.0
    for number in numbers {
        let power: Double = logits ? exp(Double(number) - Double(largest)) : Double(number)
        shares.append(power)
        total += power
    }
    if logits {
        for index in 0..<shares.count {
            shares[index] = shares[index] / total
        }
    }
    return shares
}

/// The likeliest classes. Of equal ones the first comes first.
public func likeliest(_ numbers: [Float], _ contract: Contract, count: Int = 5) -> [Top] {
    let shares = probabilities(numbers, contract)
    var taken = [Bool](repeating: false, count: shares.count)
    var found: [Top] = []
    while found.count < min(count, shares.count) {
        var best = -1
        for index in 0..<shares.count {
            if taken[index] { continue }
            if best < 0 || shares[index] > shares[best] { best = index }
        }
        taken[best] = true
        let label = best < contract.labels.count ? contract.labels[best] : ""
        found.append(Top(index: best, label: label, probability: shares[best]))
    }
    return found
}

/// Where the elements of an array of any strides lie, in the order of its indices, the last one fastest.
public func places(shape: [Int], strides: [Int]) -> [Int] {
    var found: [Int] = [0]
    for axis in 0..<shape.count {
        var next: [Int] = []
        for base in found {
            for index in 0..<shape[axis] {
                next.append(base + index * strides[axis])
            }
        }
        found = next
    }
    return found
}
