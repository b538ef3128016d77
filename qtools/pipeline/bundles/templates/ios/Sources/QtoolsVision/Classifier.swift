// A network that names what a picture shows, and one that finds objects in it.

#if canImport(CoreML)
import CoreML
import QtoolsPreparation

public struct Classifier: Sendable {
    public let network: Network

    public init(_ network: Network) {
        self.network = network
    }

    /// Opens what the package carries.
    public static func carried(units: MLComputeUnits = .all) async throws -> Classifier {
        return Classifier(try await Network.carried(units: units))
    }

    /// The real numbers of a picture's answer, one per class.
    public func numbers(_ picture: Picture) throws -> [Float] {
        let contract = network.contract
        return realNumbers(try network.run(prepare(picture, contract))[0], contract)
    }

    /// The likeliest classes of a picture.
    public func classify(_ picture: Picture, count: Int = 5) throws -> [Top] {
        return likeliest(try numbers(picture), network.contract, count: count)
    }
}

public struct Detector: Sendable {
    public let network: Network

    /// Throws where the contract is not a detector's.
    public init(_ network: Network) throws {
        guard network.contract.decoding != nil, network.contract.boxes != nil else {
            throw Mismatch(what: "the contract is not a detector's")
        }
        self.network = network
    }

    /// Opens what the package carries.
    public static func carried(units: MLComputeUnits = .all) async throws -> Detector {
        return try Detector(try await Network.carried(units: units))
    }

    /// What is in a picture, the surest first; boxes are shares of the picture behind resize and crop.
    public func detect(_ picture: Picture) throws -> [Found] {
        let contract = network.contract
        let given = try network.run(prepare(picture, contract))
        let real = zip(given, contract.outputs).map { worth($0, $1) }
        return QtoolsPreparation.detect(real[0], real[1], contract)
    }
}
#endif
